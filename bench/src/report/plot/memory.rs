//! PSS of the process tree over time.

use super::super::svg::Svg;
use super::axis::{self, Scale};
use super::{Figure, Palette, WIDTH, legend, legend_height, valid_launches};
use crate::analyse::statistics::median;
use crate::analyse::{LaunchData, RunData, Summary};
use crate::record::CellFacts;

const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 16.0;
const PLOT_HEIGHT: f64 = 180.0;
const BINS: usize = 50;
const MEBIBYTE: f64 = 1_048_576.0;

/// Points as (s, MiB).
type Line = Vec<(f64, f64)>;

struct Lines<'a> {
    subject: &'a str,
    thin: Vec<Line>,
    thick: Line,
}

/// The figure of one cell; `None` without samples.
pub fn figure(
    run: &RunData,
    summary: &Summary,
    palette: &Palette,
    cell: &CellFacts,
) -> Option<Figure> {
    let launches = valid_launches(run, summary, &cell.cell);
    let range = time_range(launches.values().flatten().copied())?;
    let lines: Vec<Lines> = launches
        .iter()
        .map(|(subject, launches)| lines(subject, launches, range))
        .filter(|l| !l.thick.is_empty())
        .collect();
    (!lines.is_empty()).then(|| Figure {
        svg: draw(palette, &lines, range, cell),
        caption: format!(
            "PSS summed over the process tree, {}, {} layout; 0 s is the start of the load, warm-up lies before. \
             Thick: median over valid blocks; thin: single launches.",
            cell.cell,
            cell.layout.as_str()
        ),
    })
}

fn time_range<'a>(launches: impl Iterator<Item = &'a LaunchData>) -> Option<(f64, f64)> {
    let times = launches.flat_map(|l| l.samples.iter().map(|s| s.t_ms / 1e3));
    let (low, high) = times.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), t| {
        (low.min(t), high.max(t))
    });
    (low < high).then_some((low, high))
}

fn lines<'a>(subject: &'a str, launches: &[&LaunchData], range: (f64, f64)) -> Lines<'a> {
    let binned: Vec<_> = launches.iter().map(|l| joined(bins(l, range))).collect();
    let centre = |bin: usize| range.0 + (range.1 - range.0) * (bin as f64 + 0.5) / BINS as f64;
    let thin = binned.iter().map(|bins| {
        let filled = bins.iter().enumerate();
        filled
            .filter_map(|(bin, v)| Some((centre(bin), (*v)?)))
            .collect()
    });
    // Where every launch has a value: of some of them it would jump whenever one joins or leaves.
    let thick = (0..BINS).filter_map(|bin| {
        let values: Option<Vec<f64>> = binned.iter().map(|bins| bins[bin]).collect();
        Some((centre(bin), median(&mut values?)?))
    });
    Lines {
        subject,
        thin: thin.collect(),
        thick: thick.collect(),
    }
}

/// Mean of the samples of each bin, in MiB.
fn bins(launch: &LaunchData, (low, high): (f64, f64)) -> [Option<f64>; BINS] {
    let mut sums = [(0.0, 0.0); BINS];
    for sample in launch.samples.iter().filter(|s| s.pss_bytes > 0) {
        let share = (sample.t_ms / 1e3 - low) / (high - low);
        // The cast truncates towards the bin's start and saturates at 0.
        let bin = ((share * BINS as f64) as usize).min(BINS - 1);
        sums[bin].0 += sample.pss_bytes as f64 / MEBIBYTE;
        sums[bin].1 += 1.0;
    }
    sums.map(|(sum, count)| (count > 0.0).then(|| sum / count))
}

/// Bins between two samples lie on the line that joins them.
fn joined(mut bins: [Option<f64>; BINS]) -> [Option<f64>; BINS] {
    let seen: Vec<(usize, f64)> = (0..BINS)
        .filter_map(|bin| Some((bin, bins[bin]?)))
        .collect();
    for pair in seen.windows(2) {
        let [(first, low), (last, high)] = [pair[0], pair[1]];
        let step = (high - low) / (last - first) as f64;
        for (bin, steps) in bins[first + 1..last].iter_mut().zip(1_u32..) {
            *bin = Some(low + f64::from(steps) * step);
        }
    }
    bins
}

fn draw(palette: &Palette, lines: &[Lines], range: (f64, f64), cell: &CellFacts) -> String {
    let subjects: Vec<&str> = lines.iter().map(|l| l.subject).collect();
    let top = legend_height(palette, &subjects, LEFT) + 4.0;
    let bottom = top + PLOT_HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    legend(&mut svg, palette, &subjects, LEFT);
    let values = lines.iter().flat_map(|l| l.thin.iter().flatten());
    let high = values.map(|p| p.1).fold(0.0, f64::max);
    let x = Scale::linear(range, (LEFT, RIGHT));
    let y = Scale::linear((0.0, high * 1.1), (bottom, top));
    axis::vertical(&mut svg, &y, (LEFT, RIGHT), "PSS [MiB]");
    axis::horizontal(&mut svg, &x, (top, bottom), "time [s]");
    let place =
        |line: &Line| -> Vec<(f64, f64)> { line.iter().map(|p| (x.at(p.0), y.at(p.1))).collect() };
    for l in lines {
        let class = palette.class(l.subject);
        l.thin
            .iter()
            .for_each(|t| svg.path(&format!("thin {class}"), &place(t)));
    }
    for l in lines {
        svg.path(
            &format!("median {}", palette.class(l.subject)),
            &place(&l.thick),
        );
    }
    svg.finish(&format!("PSS over time in {}", cell.cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_without_a_sample_lie_between_their_neighbours_and_none_beyond_the_ends() {
        let mut bins = [None; BINS];
        (bins[3], bins[7], bins[8]) = (Some(20.0), Some(28.0), Some(1.0));
        let joined = joined(bins);
        assert_eq!(
            joined[2..10],
            [
                None,
                Some(20.0),
                Some(22.0),
                Some(24.0),
                Some(26.0),
                Some(28.0),
                Some(1.0),
                None
            ]
        );
    }
}
