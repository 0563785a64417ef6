//! The figures as a picture: a small map per mode and freeze, darker where two servers were willing
//! for longer. It is made of shades of grey, because it may be printed.

use std::fmt::Write as _;
use std::time::Duration;

use crate::scenario::write_duration;

use super::{DRIFTS_PPM, FREEZES, Fencing, Frozen, Measured, Worst, freeze, millis, percent};

const CELL: (usize, usize) = (34, 20);
const MAP: (usize, usize) = (CELL.0 * DRIFTS_PPM.len(), CELL.1 * FREEZES.len());
/// Between a map's corner and the next map's.
const STEP: (usize, usize) = (MAP.0 + 62, MAP.1 + 66);
const CORNER: (usize, usize) = (56, 64);

/// The picture; `is_promised` tells which cells the guarantee covers.
pub(super) fn svg(
    measured: &Measured,
    lease: Duration,
    is_promised: impl Fn((Fencing, Frozen), (usize, usize)) -> bool,
) -> String {
    let width = CORNER.0 + STEP.0 * Frozen::ALL.len();
    let height = CORNER.1 + STEP.1 * Fencing::ALL.len();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"Overlap by drift and freeze\" font-family=\"sans-serif\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let head = "Two servers willing at a time, in ms: columns, how slow the primary's clock is; \
                rows, how long it is frozen. Framed: promised to be empty, but for what a guard \
                needs to wake up.";
    label(&mut out, (CORNER.0, 22), 13, "start", head);
    for (row, mode) in Fencing::ALL.into_iter().enumerate() {
        for (column, frozen) in Frozen::ALL.into_iter().enumerate() {
            let corner = (CORNER.0 + STEP.0 * column, CORNER.1 + STEP.1 * row);
            let title = format!("{}: {} frozen", mode.name(), frozen.name());
            label(&mut out, (corner.0, corner.1 - 18), 12, "start", &title);
            axes(&mut out, corner, lease);
            let cells = measured.get(&(mode, frozen));
            for drift in 0..DRIFTS_PPM.len() {
                for length in 0..FREEZES.len() {
                    let cell = (drift, length);
                    let worst = cells.and_then(|cells| cells.get(&cell)).copied();
                    let framed = is_promised((mode, frozen), cell);
                    let at = (corner.0 + CELL.0 * drift, corner.1 + CELL.1 * length);
                    square(&mut out, at, (worst.unwrap_or_default(), mode), framed, lease);
                }
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn axes(out: &mut String, corner: (usize, usize), lease: Duration) {
    for (drift, ppm) in DRIFTS_PPM.into_iter().enumerate() {
        let x = corner.0 + CELL.0 * drift + CELL.0 / 2;
        label(out, (x, corner.1 - 4), 9, "middle", &percent(ppm));
    }
    for length in 0..FREEZES.len() {
        let y = corner.1 + CELL.1 * length + CELL.1 / 2 + 3;
        label(out, (corner.0 - 4, y), 9, "end", &write_duration(freeze(lease, length)));
    }
}

fn square(
    out: &mut String,
    at: (usize, usize),
    (worst, mode): (Worst, Fencing),
    framed: bool,
    lease: Duration,
) {
    let share = worst.overlap.as_secs_f64() / lease.as_secs_f64();
    // A trace of grey already for the shortest, black for a lease and more.
    let least: f64 = if worst.is_clean(mode) { 0.0 } else { 0.15 };
    let dark = least.max(share.sqrt().min(1.0));
    let grey = 255 - (dark * 215.0) as u8;
    let (stroke, thick) = if framed { ("#000", 1.4) } else { ("#bbb", 0.4) };
    writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"rgb({grey},{grey},{grey})\" \
         stroke=\"{stroke}\" stroke-width=\"{thick}\"/>",
        at.0 + 1,
        at.1 + 1,
        CELL.0 - 2,
        CELL.1 - 2
    )
    .expect("writing to a string cannot fail");
    if !worst.overlap.is_zero() {
        let fill = if dark > 0.5 { "#fff" } else { "#000" };
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"10\" text-anchor=\"middle\" fill=\"{fill}\">{}\
             </text>",
            at.0 + CELL.0 / 2,
            at.1 + CELL.1 / 2 + 4,
            millis(worst.overlap)
        )
        .expect("writing to a string cannot fail");
    }
}

fn label(out: &mut String, at: (usize, usize), size: u32, anchor: &str, text: &str) {
    writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>",
        at.0, at.1
    )
    .expect("writing to a string cannot fail");
}
