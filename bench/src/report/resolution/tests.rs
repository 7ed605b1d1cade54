//! What the report of a resolution must hold.

use super::*;
use crate::analyse::analyse;
use crate::analyse::resolution::synthetic;

fn texts(run: &RunData) -> [(&'static str, String); 3] {
    let summary = analyse(run);
    let resolution = Resolution::of(run, &summary.launches).expect("the run asks for it");
    files(run, &summary, &resolution)
}

#[test]
fn the_report_names_every_target_and_whether_it_is_held() {
    let run = synthetic::run(11, 0.4, [1.0, 1.05, 1.0]);
    let files = texts(&run);
    let resolution = Resolution::of(&run, &analyse(&run).launches).expect("the run asks for it");
    for (_, text) in &files[1..] {
        for target in resolution.targets() {
            assert!(
                text.contains(&words(&resolution, target.question).0),
                "{target:?}"
            );
        }
        assert!(text.contains("MISSED") && text.contains("cannot be seen here"));
        assert!(!text.contains("NaN"));
    }
    assert_eq!(files, texts(&run));
}

#[test]
fn a_run_without_good_blocks_says_so_and_holds_nothing() {
    let mut run = synthetic::run(10, 0.02, [1.0, 1.05, 1.0]);
    run.launches.clear();
    let summary = analyse(&run);
    let resolution = Resolution::of(&run, &summary.launches).expect("the run asks for it");
    assert!(!resolution.holds());
    assert!(limits(&resolution).contains("Nothing can be said"));
    assert!(text(Some(&resolution)).contains("MISSED"));
    assert!(text(None).contains("Nothing can be said"));
}
