//! The figures: every one names its layout, every subject has the colour of its model.

pub mod axis;
pub mod calibration;
pub mod ladder;
pub mod memory;
pub mod probes;
pub mod quantiles;
pub mod strip;

use std::collections::BTreeMap;

use crate::analyse::gates::Standing;
use crate::analyse::{LaunchData, LaunchSummary, RunData, Summary};

use super::svg::{Anchor, Svg, text_width};

/// Width of every figure: narrow enough to be read on a phone.
pub const WIDTH: f64 = 480.0;
const LEGEND_LINE: f64 = 20.0;

/// One figure with its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The SVG element.
    pub svg: String,
    /// What is seen, and in which layout.
    pub caption: String,
}

/// Names and looks of the subjects of a run.
#[derive(Debug, Clone)]
pub struct Palette {
    looks: BTreeMap<String, Look>,
}

/// One subject's looks.
#[derive(Debug, Clone)]
struct Look {
    title: String,
    class: String,
}

impl Palette {
    /// One colour per model; the subjects of one model differ by the dashes of their lines.
    pub fn of(run: &RunData) -> Palette {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut looks = BTreeMap::new();
        for subject in &run.manifest.subjects {
            let variant = seen.entry(&subject.model).or_default();
            let class = format!("{} v{}", model_class(&subject.model), (*variant).min(3));
            *variant += 1;
            let title = subject.title.clone();
            looks.insert(subject.name.clone(), Look { title, class });
        }
        Palette { looks }
    }

    /// Classes of the subject's marks.
    pub fn class(&self, subject: &str) -> &str {
        self.looks
            .get(subject)
            .map_or("other v0", |look| &look.class)
    }

    /// The subject's name in figures.
    pub fn title<'a>(&'a self, subject: &'a str) -> &'a str {
        self.looks.get(subject).map_or(subject, |look| &look.title)
    }
}

fn model_class(model: &str) -> &'static str {
    match model {
        "async" => "async",
        "multi-thread" => "thread",
        "multi-process" => "process",
        _ => "other",
    }
}

/// The valid launches of a cell by subject, without a twin.
pub fn valid_launches<'a>(
    run: &'a RunData,
    summary: &'a Summary,
    cell: &str,
) -> BTreeMap<&'a str, Vec<&'a LaunchData>> {
    let mut by_subject: BTreeMap<&str, Vec<&LaunchData>> = BTreeMap::new();
    let judged = run.launches.iter().zip(&summary.launches);
    let twin = run.manifest.twin().map(|(twin, _)| twin);
    let usable = |l: &LaunchSummary| {
        l.cell == cell && l.standing == Standing::Valid && Some(l.subject.as_str()) != twin
    };
    for (data, launch) in judged.filter(|(_, launch)| usable(launch)) {
        by_subject.entry(&launch.subject).or_default().push(data);
    }
    by_subject
}

/// Height of the legend of these subjects, which wraps at the figure's width.
fn legend(svg: &mut Svg, palette: &Palette, subjects: &[&str], left: f64) -> f64 {
    let (mut x, mut y) = (left, 14.0);
    for subject in subjects {
        let title = palette.title(subject);
        let width = 34.0 + text_width(title) + 14.0;
        if x > left && x + width > WIDTH {
            (x, y) = (left, y + LEGEND_LINE);
        }
        let class = format!("median {}", palette.class(subject));
        svg.line(&class, (x, y - 4.0), (x + 26.0, y - 4.0));
        svg.text("label", (x + 32.0, y), Anchor::Start, title);
        x += width;
    }
    y + 10.0
}

fn legend_height(palette: &Palette, subjects: &[&str], left: f64) -> f64 {
    legend(&mut Svg::new(WIDTH, 0.0), palette, subjects, left)
}
