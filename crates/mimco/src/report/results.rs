//! Comparison of features: a table and a bar chart.

use super::page::escape;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Row of the comparison: the accuracy of one kind of features.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the features, such as `pixels` or `student`.
    pub name: String,
    /// Method that produced the features.
    pub method: String,
    /// Epochs of training; 0 without training.
    pub epochs: u64,
    /// Seconds of training; 0 without training.
    pub seconds: f64,
    /// kNN accuracy in percent.
    pub knn_top1: f64,
    /// Accuracy of the linear probe in percent.
    pub linear_top1: f64,
}

/// Returns the rows as an HTML table. The accuracies come first, because a phone shows only the
/// first columns.
pub fn table(rows: &[Row]) -> String {
    let mut html = String::from(
        "<div class=\"wide\"><table>\n<thead><tr><th>Features</th><th class=\"n\">kNN&nbsp;%</th><th class=\"n\">Linear&nbsp;%</th>\
         <th>Method</th><th class=\"n\">Epochs</th><th class=\"n\">Training</th></tr></thead>\n<tbody>\n",
    );
    for row in rows {
        let epochs = if row.epochs == 0 { NONE.into() } else { row.epochs.to_string() };
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{epochs}</td><td class=\"n\">{}</td></tr>",
            escape(&row.name),
            percent(row.knn_top1),
            percent(row.linear_top1),
            escape(&row.method),
            duration(row.seconds),
        );
    }
    html + "</tbody>\n</table></div>\n"
}

/// Returns the accuracies of the rows as horizontal bars from 0 to 100 %.
pub fn bars(rows: &[Row]) -> String {
    let mut html = String::from(
        "<figure class=\"bars\">\n<h3>Accuracy of the frozen features (%)</h3>\n\
         <p class=\"legend\"><span><i class=\"key c0\"></i>kNN</span> <span><i class=\"key c1\"></i>linear probe</span></p>\n",
    );
    for row in rows {
        let _ = writeln!(html, "<div class=\"row\"><div class=\"name\">{}</div><div>", escape(&row.name));
        for (color, value) in [("c0", row.knn_top1), ("c1", row.linear_top1)] {
            // A NaN is a bar of width 0, labeled with a dash.
            let width = value.clamp(0.0, 100.0).max(0.0);
            let _ =
                writeln!(html, "<div class=\"bar\"><i class=\"{color}\" style=\"width:{width:.1}%\"></i><b>{}</b></div>", percent(value));
        }
        html.push_str("</div></div>\n");
    }
    html + "<figcaption>Higher is better. A bar of full width is 100 %.</figcaption>\n</figure>\n"
}

/// Placeholder for a missing value: an en dash.
const NONE: &str = "&ndash;";

/// Formats a percentage with one decimal.
fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.1}") } else { NONE.into() }
}

/// Formats a duration in seconds, minutes or hours.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds <= 0.0 {
        return NONE.into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_suitable_units() {
        assert_eq!([0.0, 3.12, 59.2, 61.0, 3725.0].map(duration), [NONE, "3.1 s", "59 s", "1 min 01 s", "1 h 02 min"]);
        assert_eq!([f64::NAN, f64::INFINITY, -1.0].map(duration), [NONE; 3]);
    }

    #[test]
    fn a_row_has_the_documented_json_keys() {
        let row = Row { name: "pixels".into(), method: "none".into(), epochs: 0, seconds: 0.0, knn_top1: 31.5, linear_top1: 40.0 };
        let json = r#"{"name":"pixels","method":"none","epochs":0,"seconds":0.0,"knn_top1":31.5,"linear_top1":40.0}"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), json);
    }

    #[test]
    fn values_out_of_range_keep_the_bars_within_limits() {
        let row = |value| Row { name: "<b>".into(), method: "&".into(), epochs: 1, seconds: 1.0, knn_top1: value, linear_top1: value };
        let rows = [row(f64::NAN), row(-5.0), row(250.0)];
        let html = table(&rows) + &bars(&rows);
        assert!(html.contains("width:0.0%") && html.contains("width:100.0%") && !html.contains("NaN"));
        assert!(html.contains("&lt;b&gt;") && html.contains("&amp;") && !html.contains("<b>&lt;/"));
    }
}
