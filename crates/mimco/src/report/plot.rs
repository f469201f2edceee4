//! Line charts over training steps, drawn as SVG.
//!
//! The chart is drawn at twice its displayed size, because the backend rounds to whole pixels. The
//! page draws the legend outside the chart, so that it cannot cover a line. `style.css` replaces
//! the colors on dark screens.

use super::history::Points;
use plotters::prelude::*;

/// Step and value pairs of one line, sorted by step.
pub type Line<'a> = &'a [(f64, f64)];

/// Width and height of a chart in px.
const SIZE: (u32, u32) = (840, 480);
const TEXT: RGBColor = RGBColor(0x4B, 0x55, 0x63);
const GRID: RGBColor = RGBColor(0xDD, 0xE1, 0xE6);
/// Colors of the lines, in order.
const COLORS: [RGBColor; 4] =
    [RGBColor(0x1F, 0x6F, 0xB4), RGBColor(0xC2, 0x57, 0x0C), RGBColor(0x0F, 0x76, 0x6E), RGBColor(0x93, 0x33, 0xEA)];

/// Number of stretches, two points each, to which longer lines are reduced. More points would share
/// pixels.
const BUCKETS: usize = 400;
/// Lines with fewer points mark each point with a circle.
const MIN_UNMARKED: usize = 30;

/// Returns the color index of a line.
pub fn color_index(line: usize) -> usize {
    line % COLORS.len()
}

/// Draws lines over steps 0 to `last_step` as an SVG element. `unit` labels the vertical axis,
/// which includes 0 if `from_zero` is true.
///
/// # Errors
/// A chart that the backend cannot draw.
pub fn svg(lines: &[Line<'_>], last_step: f64, unit: &str, from_zero: bool) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, lines, last_step, unit, from_zero).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw(svg: &mut String, lines: &[Line<'_>], last_step: f64, unit: &str, from_zero: bool) -> Result<(), Box<dyn std::error::Error>> {
    let (low, high) = range(lines, from_zero);
    let last_step = last_step.max(1.0);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(16)
        .margin_right(40)
        .x_label_area_size(88)
        .y_label_area_size(136)
        .build_cartesian_2d(0.0..last_step, low..high)?;
    let text = ("sans-serif", 30).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .axis_style(GRID.stroke_width(2))
        .set_all_tick_mark_size(8)
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|step| tick(*step, last_step))
        .y_label_formatter(&|value| tick(*value, high.abs().max(low.abs()).min(high - low)))
        .x_desc("step")
        .y_desc(unit)
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = COLORS[color_index(index)];
        chart.draw_series(LineSeries::new(thin(line), color.stroke_width(4)))?;
        if line.len() < MIN_UNMARKED {
            chart.draw_series(line.iter().map(|&point| Circle::new(point, 6, color.filled())))?;
        }
    }
    root.present()?;
    drop(chart);
    Ok(())
}

/// Returns the range of the vertical axis: all values plus a margin. A minimum width prevents
/// rounding steps in flat lines.
fn range(lines: &[Line<'_>], from_zero: bool) -> (f64, f64) {
    let values = || lines.iter().flat_map(|line| line.iter().map(|point| point.1));
    let (mut low, mut high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return (0.0, 1.0);
    }
    if from_zero {
        (low, high) = (low.min(0.0), high.max(0.0));
    }
    let min_margin = (low.abs().max(high.abs()) * if high > low { 1e-3 } else { 0.1 }).max(1e-12);
    let margin = ((high - low) * 0.06).max(min_margin);
    let at_zero = from_zero && low == 0.0;
    (if at_zero { 0.0 } else { low - margin }, high + margin)
}

/// Reduces a long line to the lowest and the highest point of each stretch, so that peaks are kept.
fn thin(line: Line<'_>) -> Points {
    if line.len() <= 2 * BUCKETS {
        return line.to_vec();
    }
    let mut thinned = Points::with_capacity(2 * BUCKETS);
    for stretch in line.chunks(line.len().div_ceil(BUCKETS)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        if let (Some(low), Some(high)) = (stretch.iter().min_by(by_value), stretch.iter().max_by(by_value)) {
            let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
            thinned.extend([*first, *second]);
        }
    }
    thinned
}

/// Returns the label of a tick on an axis of this length.
fn tick(value: f64, length: f64) -> String {
    // The distance between ticks is about a fifth of the axis.
    let decimals = |length: f64| (-(length / 5.0).log10()).ceil().clamp(0.0, 6.0) as usize;
    if value.abs() < length * 1e-6 {
        "0".into()
    } else if value.abs().max(length) >= 1e6 || length < 1e-3 {
        format!("{value:.1e}")
    } else if length >= 1e4 {
        format!("{:.*}k", decimals(length / 1e3), value / 1e3)
    } else {
        format!("{value:.*}", decimals(length))
    }
}

/// Formats a value with about four significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        size => format!("{value:.*}", (3.0 - size.log10().floor()).clamp(0.0, 4.0) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_sheet_replaces_all_colors() {
        let style = include_str!("style.css");
        for RGBColor(r, g, b) in COLORS.into_iter().chain([TEXT, GRID]) {
            let hex = format!("#{r:02X}{g:02X}{b:02X}");
            assert!(style.contains(&format!("\"{hex}\"]")), "{hex}");
        }
    }

    #[test]
    fn peaks_survive_thinning() {
        let mut line: Points = (0..100_000).map(|i| (i as f64, (i % 7) as f64)).collect();
        line[54_321].1 = 99.0;
        let thinned = thin(&line);
        assert!(thinned.len() <= 2 * BUCKETS);
        assert!(thinned.contains(&(54_321.0, 99.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn any_finite_values_can_be_drawn() {
        let next = f64::from_bits(1.0f64.to_bits() + 1);
        let odd: [Line<'_>; 8] = [
            &[],
            &[(0.0, 0.0)],
            &[(5.0, -3.0)],
            &[(1.0, 1.0), (2.0, next)],
            &[(1.0, -1e30), (2.0, 1e30)],
            &[(1.0, 1e-300), (2.0, 2e-300)],
            &[(1.0, 7.0), (1.0, 8.0)],
            &[(1.0, 1e30), (2.0, f64::from_bits(1e30f64.to_bits() + 1))],
        ];
        for line in odd {
            for from_zero in [false, true] {
                for last_step in [0.0, 10.0, u64::MAX as f64] {
                    let svg = svg(&[line, line], last_step, "<unit>", from_zero).unwrap();
                    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
                    assert!(svg.contains("&lt;unit&gt;") && !svg.contains("NaN"));
                }
            }
        }
    }

    #[test]
    fn labels_are_short() {
        let ticks = |length: f64, values: &[f64]| values.iter().map(|&v| tick(v, length)).collect::<Vec<_>>();
        assert_eq!(ticks(10.0, &[0.0, 2.0, 10.0]), ["0", "2", "10"]);
        assert_eq!(ticks(0.4, &[6.1, 6.2]), ["6.10", "6.20"]);
        assert_eq!(ticks(30_000.0, &[0.0, 5_000.0, 30_000.0]), ["0", "5k", "30k"]);
        assert_eq!(ticks(1.5e-4, &[5e-5, 1.5e-4]), ["5.0e-5", "1.5e-4"]);
        assert_eq!([0.0, 0.12345, 4.21987, 57.34, 1234.6, 1.5e-4].map(short), ["0", "0.1235", "4.220", "57.34", "1235", "1.50e-4"]);
    }
}
