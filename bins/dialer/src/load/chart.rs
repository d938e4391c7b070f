//! Draws capacity runs: lateness over calls, one line for each.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;

use super::{LATE, Run, title};

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

/// Writes an SVG.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(runs: &[Run], file: &Path) -> Result<()> {
    let most = runs.iter().flat_map(|it| &it.steps).map(|it| it.calls).max().unwrap_or(1);
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", file.display());
    let area = SVGBackend::new(file, (900, 460)).into_drawing_area();
    let font = ("sans-serif", 15).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
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
    for (run, color) in runs.iter().zip(LINES.into_iter().cycle()) {
        let points = run.steps.iter().map(|it| (it.calls, it.round_trip.p99_ms.max(0.1)));
        let held = run.capacity.map_or_else(String::new, |it| format!(": {it} calls"));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(3)).point_size(3))
            .map_err(|it| failed(&it))?
            .label(format!("{}{held}", title(run.setup)))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(font)
        .border_style(TRANSPARENT)
        .draw()
        .map_err(|it| failed(&it))?;
    area.present().map_err(|it| failed(&it))
}
