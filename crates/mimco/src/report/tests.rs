use super::*;
use std::fs;

const HOSTILE: &str = "<script>alert('x')</script>\" & more";
const ESCAPED: &str = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; &amp; more";

fn metrics(folder: &Path) -> PathBuf {
    let mut text = String::new();
    for step in (10..=300).step_by(10) {
        let t = step as f64 / 300.0;
        let (patch, image) = (5.0 - 2.0 * t, 4.0 - t);
        let lr = 1.5e-4 * (t * 10.0).min(1.0) * (1.0 - t).max(0.02);
        text += &format!(
            "{{\"step\":{step},\"epoch\":{},\"health/teacher_alignment\":{},\"optim/grad_norm\":{},\"optim/lr\":{lr},\"perf/data_wait\":0.01,\
             \"perf/img_per_s\":123.4,\"train/acc_image\":{},\"train/acc_patch\":{},\"train/loss\":{},\"train/loss_image\":{image},\"train/loss_patch\":{patch}}}\n",
            step / 100,
            0.9 * t,
            1.0 + (step % 7) as f64 * 0.1,
            0.6 * t,
            0.4 * t,
            patch + image,
        );
        if step % 100 == 0 {
            text += &format!(
                "{{\"step\":{step},\"epoch\":{},\"eval/knn_top1\":{},\"health/feature_std\":0.05,\"health/rankme\":null}}\n",
                step / 100,
                30.0 + 20.0 * t
            );
        }
    }
    let path = folder.join("metrics.jsonl");
    fs::write(&path, text).unwrap();
    path
}

fn run(folder: &Path, metrics: &Path) -> String {
    let path = folder.join("report.html");
    let facts = [("Images".to_string(), HOSTILE.to_string()), ("Method".into(), "mimco".into())];
    let report = RunReport { title: HOSTILE, facts: &facts, metrics, config: HOSTILE, notes: &[HOSTILE.to_string()] };
    write_run(&path, &report).unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_run_report_has_curves_and_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let html = run(folder.path(), &metrics(folder.path()));
    assert_eq!(html.matches("<svg ").count(), 9);
    assert!(!html.contains("(RankMe)"), "a metric without a finite value has no chart");
    assert!(html.contains("3 values are not finite"));
    assert!(html.contains("patches <b>3.000</b>") && html.contains("kNN <b>50.00</b>"));
    assert_eq!(html.matches(ESCAPED).count(), 5);
    assert!(!html.contains("<script"));
    let addresses = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http:") && !addresses.contains("https:") && !addresses.contains("url("));
    assert_eq!(html, run(folder.path(), &metrics(folder.path())), "the report is reproducible");
}

#[test]
fn a_run_report_notes_missing_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    assert!(run(folder.path(), &path).contains("There is no metrics file"));
    fs::write(&path, "").unwrap();
    assert!(run(folder.path(), &path).contains("no values yet"));
    fs::write(&path, "{\"step\":1,\"epoch\":0,\"train/loss\":2.5}\n{\"step\":2,\"ep").unwrap();
    let html = run(folder.path(), &path);
    assert!(html.contains("<circle ") && html.contains("interrupted run"));
}

#[test]
fn identical_lines_share_a_legend_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, "{\"step\":1,\"epoch\":0,\"train/loss\":2.5,\"train/loss_image\":2.5}\n").unwrap();
    assert!(run(folder.path(), &path).contains("total = whole image"));
}

#[test]
fn a_demo_report_has_table_bars_pictures_and_stages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.html");
    let row = |name: &str, epochs, seconds, knn_top1, linear_top1| Row {
        name: name.into(),
        method: HOSTILE.into(),
        epochs,
        seconds,
        knn_top1,
        linear_top1,
    };
    let metrics = metrics(folder.path());
    let report = DemoReport {
        title: "Demo",
        intro: &["First.".into(), HOSTILE.into()],
        rows: &[row("pixels", 0, 0.0, 31.2, 40.1), row("student", 10, 130.0, 60.05, 71.9)],
        stages: &[("Teacher".into(), metrics.clone()), ("Student".into(), metrics)],
        pictures: &[("Masked and seen".into(), vec![0xff, 0x00, 0x10, 0x80])],
        next: "mimco pretrain --data <YOURS>",
    };
    write_demo(&path, &report).unwrap();
    let html = fs::read_to_string(path).unwrap();
    assert!(html.contains("<td class=\"n\">2 min 10 s</td>") && html.contains("width:31.2%"));
    assert!(html.contains("src=\"data:image/png;base64,/wAQgA==\""));
    assert!(html.contains("--data &lt;YOURS&gt;") && !html.contains("<script"));
    assert_eq!(html.matches("<svg ").count(), 18);
}
