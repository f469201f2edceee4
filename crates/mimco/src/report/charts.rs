//! Which figures share a chart, what it is called, and what good looks like.

use super::history::{History, Points};
use super::page::escape;
use super::plot::{self, Line};
use std::fmt::Write;

/// A chart of a report.
struct Chart {
    title: &'static str,
    /// Metric names, or beginnings of names.
    figures: &'static [&'static str],
    /// What the vertical axis counts.
    unit: &'static str,
    /// From the metric to that unit.
    factor: f64,
    /// Whether the vertical axis begins at 0.
    from_zero: bool,
    good: &'static str,
}

const CHARTS: [Chart; 12] = [
    Chart {
        title: "Accuracy of the frozen features",
        figures: &["eval/"],
        unit: "percent",
        factor: 1.0,
        from_zero: false,
        good: "Rises: this is what the training is for, whatever the loss says.",
    },
    Chart {
        title: "Loss",
        figures: &["train/loss"],
        unit: "loss",
        factor: 1.0,
        from_zero: false,
        good: "Falls fast, then slowly. Its level depends on the batch size and the temperature: compare like runs only.",
    },
    Chart {
        title: "How often the positive wins",
        figures: &["train/acc_"],
        unit: "percent",
        factor: 1.0,
        from_zero: true,
        good: "Rises. Near 100 % from the beginning, the task is too easy to teach much.",
    },
    Chart {
        title: "Agreement of student and teacher",
        figures: &["health/teacher_alignment"],
        unit: "cosine",
        factor: 1.0,
        from_zero: false,
        good: "Rises, then holds. It need not reach 1: the losses ask only that the right target is nearer than the others.",
    },
    Chart {
        title: "Effective rank of the features (RankMe)",
        figures: &["health/rankme"],
        unit: "dimensions",
        factor: 1.0,
        from_zero: true,
        good: "Rises, then holds. A fall towards 1 is a collapse: all images look alike to the model.",
    },
    Chart {
        title: "Spread of the features",
        figures: &["health/feature_std"],
        unit: "deviation",
        factor: 1.0,
        from_zero: true,
        good: "Holds well above 0. At 0 all images look alike to the model.",
    },
    Chart {
        title: "Learning rate",
        figures: &["optim/lr"],
        unit: "rate",
        factor: 1.0,
        from_zero: true,
        good: "Rises through the warm-up, then falls to the end of the run.",
    },
    Chart {
        title: "Norm of the gradient",
        figures: &["optim/grad_norm"],
        unit: "norm",
        factor: 1.0,
        from_zero: true,
        good: "Settles. Peaks that grow call for a lower optim.lr, or for optim.clip.",
    },
    Chart {
        title: "Images a second",
        figures: &["perf/img_per_s"],
        unit: "images / s",
        factor: 1.0,
        from_zero: true,
        good: "Level. A dip is another program, or a slow disk.",
    },
    Chart {
        title: "Time spent waiting for images",
        figures: &["perf/data_wait"],
        unit: "percent",
        factor: 100.0,
        from_zero: true,
        good: "Near 0. Above 10 % images come too slowly: raise data.workers, or shrink the images once.",
    },
    Chart {
        title: "Use of the matrix units",
        figures: &["perf/mfu"],
        unit: "percent",
        factor: 100.0,
        from_zero: true,
        good: "The higher the better. The rest is memory traffic, waiting, and work that is no matrix product.",
    },
    Chart {
        title: "Steps skipped since the beginning",
        figures: &["train/skipped_steps"],
        unit: "steps",
        factor: 1.0,
        from_zero: true,
        good: "Stays low. Each had a loss or a gradient that was not finite.",
    },
];

/// The curves of a run, or the words that there are none.
pub fn curves(history: &History) -> String {
    let mut html: String = history.notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect();
    let charts: String = CHARTS.iter().filter_map(|chart| draw(chart, history)).collect();
    if !charts.is_empty() {
        let _ = write!(
            html,
            "<p>Beside each name stands its last value; below each chart, what good looks like.</p>\n<div class=\"charts\">\n{charts}</div>\n"
        );
    }
    html
}

fn draw(chart: &Chart, history: &History) -> Option<String> {
    let mut series: Vec<(String, Points)> = Vec::new();
    for (name, points) in history.figures.iter().filter(|(name, _)| chart.figures.iter().any(|begin| name.starts_with(begin))) {
        let points: Points = points.iter().map(|&(step, value)| (step, value * chart.factor)).collect();
        let label = label(name);
        // Of two lines that are the same, the first would not be seen.
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
        .unwrap_or_else(|e| format!("<p class=\"note\">This curve cannot be drawn: {}</p>\n", escape(&e)));
    let mut legend = String::new();
    for (index, (label, points)) in series.iter().enumerate() {
        let last = points.last().map_or(String::new(), |&(_, value)| plot::short(value));
        let _ = write!(legend, "<span><i class=\"key c{}\"></i>{} <b>{last}</b></span> ", plot::colour_index(index), escape(label));
    }
    Some(format!(
        "<figure class=\"chart\">\n<h3>{title}</h3>\n<p class=\"legend\">{legend}</p>\n\
         <div role=\"img\" aria-label=\"{title} by step\">{picture}</div>\n<figcaption>{good}</figcaption>\n</figure>\n",
        title = chart.title,
        good = chart.good,
    ))
}

/// A figure's name in words, or as it is.
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
