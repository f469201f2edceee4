//! Charts of a report: their metrics, titles, and captions that describe a healthy run.

use super::history::{History, Points};
use super::page::escape;
use super::plot::{self, Line};
use std::fmt::Write;

/// Chart of a report.
struct Chart {
    /// Heading of the chart.
    title: &'static str,
    /// Prefixes of the names of the metrics in the chart.
    metrics: &'static [&'static str],
    /// Unit of the vertical axis.
    unit: &'static str,
    /// Factor from the metric to the unit.
    factor: f64,
    /// Whether the vertical axis includes 0.
    from_zero: bool,
    /// Caption: how a healthy curve looks.
    caption: &'static str,
}

const CHARTS: [Chart; 12] = [
    Chart {
        title: "Accuracy of the frozen features",
        metrics: &["eval/"],
        unit: "percent",
        factor: 1.0,
        from_zero: false,
        caption: "Should rise. This is the goal of the training and matters more than the loss.",
    },
    Chart {
        title: "Loss",
        metrics: &["train/loss"],
        unit: "loss",
        factor: 1.0,
        from_zero: false,
        caption: "Should fall quickly, then slowly. The level depends on batch size and temperature: compare \
                  only runs with the same settings.",
    },
    Chart {
        title: "Contrastive accuracy",
        metrics: &["train/acc_"],
        unit: "percent",
        factor: 1.0,
        from_zero: true,
        caption: "Should rise. It is the share of predictions whose most similar target is the correct one. Values \
                  near 100 % from the start mean that the task is too easy.",
    },
    Chart {
        title: "Alignment of student and teacher",
        metrics: &["health/teacher_alignment"],
        unit: "cosine similarity",
        factor: 1.0,
        from_zero: false,
        caption: "Should rise, then level off. It need not reach 1: the losses only require the correct target to be \
                  closer than the others.",
    },
    Chart {
        title: "Effective rank of the features (RankMe)",
        metrics: &["health/rankme"],
        unit: "dimensions",
        factor: 1.0,
        from_zero: true,
        caption: "Should rise, then level off. A fall toward 1 is a collapse: all images get similar features.",
    },
    Chart {
        title: "Spread of the features",
        metrics: &["health/feature_std"],
        unit: "std",
        factor: 1.0,
        from_zero: true,
        caption: "Should stay well above 0. At 0, all features have the same direction; at 1, the \
                  directions are spread uniformly.",
    },
    Chart {
        title: "Learning rate",
        metrics: &["optim/lr"],
        unit: "rate",
        factor: 1.0,
        from_zero: true,
        caption: "Rises during the warm-up, then decays until the end of the run.",
    },
    Chart {
        title: "Gradient norm",
        metrics: &["optim/grad_norm"],
        unit: "norm",
        factor: 1.0,
        from_zero: true,
        caption: "Should settle. If the peaks grow, lower optim.lr or set optim.clip.",
    },
    Chart {
        title: "Throughput",
        metrics: &["perf/img_per_s"],
        unit: "images / s",
        factor: 1.0,
        from_zero: true,
        caption: "Should be constant. Dips come from other programs or a slow disk.",
    },
    Chart {
        title: "Time spent waiting for images",
        metrics: &["perf/data_wait"],
        unit: "percent",
        factor: 100.0,
        from_zero: true,
        caption: "Should be near 0. Above 10 %, loading is too slow: raise data.workers, or downscale the \
                  images once before training.",
    },
    Chart {
        title: "Model FLOP utilization (MFU)",
        metrics: &["perf/mfu"],
        unit: "percent",
        factor: 100.0,
        from_zero: true,
        caption: "Higher is better. 100 % is the speed of large matrix products. The rest is memory traffic, \
                  waiting, and other operations.",
    },
    Chart {
        title: "Skipped steps (total)",
        metrics: &["train/skipped_steps"],
        unit: "steps",
        factor: 1.0,
        from_zero: true,
        caption: "Should stay low. A step is skipped if its loss or gradient is not finite.",
    },
];

/// Returns the charts of a run as HTML, after notes about missing data.
pub fn curves(history: &History) -> String {
    let mut html: String = history.notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect();
    let charts: String = CHARTS.iter().filter_map(|chart| draw(chart, history)).collect();
    if !charts.is_empty() {
        let _ = write!(
            html,
            "<p>The number after each name is its last value. The caption below each chart describes a healthy run.</p>\n\
             <div class=\"charts\">\n{charts}</div>\n"
        );
    }
    html
}

/// Returns a chart as HTML, or `None` if the run has none of its metrics.
fn draw(chart: &Chart, history: &History) -> Option<String> {
    let mut series: Vec<(String, Points)> = Vec::new();
    for (name, points) in history.metrics.iter().filter(|(name, _)| chart.metrics.iter().any(|prefix| name.starts_with(prefix))) {
        let points: Points = points.iter().map(|&(step, value)| (step, value * chart.factor)).collect();
        let label = label(name);
        // Identical lines share one entry: the later line would hide the earlier one.
        match series.iter_mut().find(|(_, other)| *other == points) {
            Some((labels, _)) => *labels = format!("{labels} = {label}"),
            None => series.push((label.to_string(), points)),
        }
    }
    if series.is_empty() {
        return None;
    }
    let lines: Vec<Line<'_>> = series.iter().map(|(_, points)| points.as_slice()).collect();
    let picture = plot::svg(&lines, history.last_step, chart.unit, chart.from_zero)
        .unwrap_or_else(|e| format!("<p class=\"note\">This chart cannot be drawn: {}</p>\n", escape(&e)));
    let mut legend = String::new();
    for (index, (label, points)) in series.iter().enumerate() {
        let last = points.last().map_or(String::new(), |&(_, value)| plot::short(value));
        let _ = write!(legend, "<span><i class=\"key c{}\"></i>{} <b>{last}</b></span> ", plot::color_index(index), escape(label));
    }
    Some(format!(
        "<figure class=\"chart\">\n<h3>{title}</h3>\n<p class=\"legend\">{legend}</p>\n\
         <div role=\"img\" aria-label=\"{title} by step\">{picture}</div>\n<figcaption>{caption}</figcaption>\n</figure>\n",
        title = chart.title,
        caption = chart.caption,
    ))
}

/// Returns the label of a metric: a short description, or its name.
fn label(name: &str) -> &str {
    match name {
        "train/loss" => "total",
        "train/loss_patch" | "train/acc_patch" => "patches",
        "train/loss_image" | "train/acc_image" => "whole image",
        "eval/knn_top1" => "kNN",
        "eval/linear_top1" => "linear probe",
        other => other,
    }
}
