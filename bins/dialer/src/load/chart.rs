//! Draws capacity runs: lateness over calls, one line for each.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;

use super::{LATE, Run, Step, title};

/// Readable on white and on black.
const INK: RGBColor = RGBColor(128, 128, 128);
const LINES: [RGBColor; 6] = [
    RGBColor(230, 97, 0),
    RGBColor(42, 120, 214),
    RGBColor(26, 162, 96),
    RGBColor(146, 85, 200),
    RGBColor(200, 60, 90),
    RGBColor(120, 120, 40),
];

const MARGIN: u32 = 12;
/// Height of a line of the legend.
const LEGEND: u32 = 24;

/// Writes an SVG; steps that held have a dot. Of steps that were measured several times, the best is drawn.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(runs: &[Run], file: &Path) -> Result<()> {
    let most = runs.iter().flat_map(|it| &it.steps).map(|it| it.calls).max().unwrap_or(1);
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", file.display());
    let area = SVGBackend::new(file, (900, 460 + LEGEND * runs.len() as u32)).into_drawing_area();
    let font = ("sans-serif", 15).into_font().color(&INK);
    // Above the lines: beside them there is no place that stays free.
    let (legend, plot) = area.split_vertically(LEGEND * runs.len() as u32 + MARGIN);
    let mut chart = ChartBuilder::on(&plot)
        .margin(MARGIN)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0..most + most / 20, (0.1_f64..300.0).log_scale())
        .map_err(|it| failed(&it))?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(font.clone())
        .x_desc("calls on one core")
        .y_desc("added round trip, p99, ms")
        .y_label_formatter(&|it| format!("{it}"))
        .draw()
        .map_err(|it| failed(&it))?;
    chart
        .draw_series([PathElement::new([(0, LATE), (most + most / 20, LATE)], INK.stroke_width(1))])
        .map_err(|it| failed(&it))?;
    for (row, (run, color)) in runs.iter().zip(LINES.into_iter().cycle()).enumerate() {
        let point = |it: &&Step| (it.calls, it.round_trip.p99_ms.max(0.1));
        let mut steps: Vec<&Step> = run.steps.iter().collect();
        steps.sort_by(|a, b| (a.calls, !a.holds()).cmp(&(b.calls, !b.holds())).then(point(a).1.total_cmp(&point(b).1)));
        steps.dedup_by_key(|it| it.calls);
        chart.draw_series(LineSeries::new(steps.iter().map(point), color.stroke_width(3))).map_err(|it| failed(&it))?;
        let held = steps.iter().filter(|it| it.holds()).map(|it| Circle::new(point(it), 5, color.filled()));
        chart.draw_series(held).map_err(|it| failed(&it))?;
        let (left, y) = (76, (MARGIN + LEGEND * row as u32 + LEGEND / 2) as i32);
        let capacity = run.capacity.map_or_else(String::new, |it| format!(": {it} calls"));
        let title = Text::new(format!("{}{capacity}", title(run.setup)), (left + 28, y - 6), font.clone());
        legend.draw(&PathElement::new([(left, y), (left + 18, y)], color.stroke_width(3))).map_err(|it| failed(&it))?;
        legend.draw(&title).map_err(|it| failed(&it))?;
    }
    area.present().map_err(|it| failed(&it))
}
