//! Pictures, as SVG.

use plotters::prelude::*;

use super::limits::Curve;

const SIZE: (u32, u32) = (900, 500);
const FONT: &str = "sans-serif";

pub struct Labels {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
}

/// A line for each of the curves, with its name.
pub fn lines(labels: &Labels, lines: &[(&str, Curve)]) -> String {
    let points = || lines.iter().flat_map(|(_name, curve)| curve);
    let right = points().map(|(x, _y)| *x).fold(0.0, f64::max);
    let top = points().map(|(_x, y)| *y).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let mut chart = ChartBuilder::on(&area)
            .caption(labels.title, (FONT, 20))
            .margin(15)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..right, 0.0..top * 1.02)
            .unwrap();
        chart
            .configure_mesh()
            .max_light_lines(0)
            .x_desc(labels.x)
            .y_desc(labels.y)
            .y_label_formatter(&|count| format!("{count:.0}"))
            .label_style((FONT, 14))
            .draw()
            .unwrap();
        for (index, (name, curve)) in lines.iter().enumerate() {
            let style = ShapeStyle::from(&Palette99::pick(index)).stroke_width(2);
            let points = std::iter::once((0.0, 0.0)).chain(curve.iter().copied());
            chart
                .draw_series(LineSeries::new(points, style))
                .unwrap()
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK)
            .label_font((FONT, 14))
            .draw()
            .unwrap();
        area.present().unwrap();
    }
    svg
}
