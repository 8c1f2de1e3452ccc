//! A plot of what each operation adds to a bare redirect.

use std::fmt::Write as _;

use super::forwarding::Times;

const ROW: usize = 22;
const LEFT: usize = 330;
const WIDTH: usize = 480;
const RIGHT: usize = 70;

/// Bars, as SVG.
pub fn plot(times: &[Times]) -> String {
    let added: Vec<f64> = times.iter().map(|times| times.median_added().max(0.0)).collect();
    let most = added.iter().copied().fold(1.0, f64::max);
    let (width, height) = (LEFT + WIDTH + RIGHT, ROW * (times.len() + 2));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"{ROW}\">nanoseconds \
         added to a bare redirect, per frame</text>\n"
    );
    for (index, (times, added)) in times.iter().zip(added).enumerate() {
        let top = ROW * (index + 1) + ROW / 2;
        let bar = added / most * WIDTH as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" \
             fill=\"#4477aa\"/><text x=\"{:.1}\" y=\"{}\">{added:.1}</text>",
            LEFT - 8,
            top + 15,
            times.row.title,
            top + 3,
            ROW - 6,
            LEFT as f64 + bar + 6.0,
            top + 15,
        );
    }
    svg + "</svg>\n"
}
