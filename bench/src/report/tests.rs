//! What every form of the report must hold.

use super::*;
use crate::analyse::{analyse, synthetic};

fn render(run: &RunData) -> (Summary, Vec<String>) {
    let summary = analyse(run);
    let texts = exporters().map(|e| e.render(run, &summary)).to_vec();
    (summary, texts)
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let run = synthetic::run(3);
    let (first, texts) = render(&run);
    let (second, again) = render(&run.clone());
    assert_eq!(summary_json(&first), summary_json(&second));
    assert_eq!(texts, again);
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let (_, texts) = render(&synthetic::run(3));
    let page = &texts[1];
    for foreign in ["http:", "https:", "<script", "@import", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn every_figure_names_its_layout() {
    let (_, texts) = render(&synthetic::run(3));
    let captions = texts[1].matches("<figcaption>").count();
    let mut rest = texts[1].split("<figcaption>");
    rest.next();
    assert!(captions > 20, "{captions}");
    assert!(rest.all(|c| {
        c.split("</figcaption>")
            .next()
            .is_some_and(|c| c.contains("isolated layout"))
    }));
}

#[test]
fn an_empty_run_still_has_a_marked_report() {
    let mut run = synthetic::run(3);
    run.launches.clear();
    run.manifest.interrupted = true;
    for text in render(&run).1 {
        assert!(text.contains("PARTIAL: the run was interrupted"));
        assert!(
            text.contains("Never launched here: asynchronous, multi-process and multi-thread.")
        );
    }
}

#[test]
fn a_run_without_cells_or_subjects_does_not_panic() {
    let mut run = synthetic::run(1);
    run.launches.truncate(2);
    run.manifest.cells.clear();
    run.manifest.subjects.clear();
    run.manifest.order.clear();
    for text in render(&run).1 {
        assert!(text.contains("the run has no cell under steady load"));
    }
}

#[test]
fn names_from_outside_cannot_break_the_page() {
    let mut run = synthetic::run(3);
    run.manifest.subjects[0].title = "<b>&\"".into();
    run.launches[0].launch.faults = vec!["</td><script>".into()];
    let page = &render(&run).1[1];
    assert!(!page.contains("<script>") && !page.contains("<b>&"));
    assert!(page.contains("&lt;b&gt;&amp;&quot;"));
}

#[test]
fn an_invalid_launch_is_listed_with_its_gate_and_its_raw_data() {
    let mut run = synthetic::run(3);
    run.launches[3].launch.faults = vec!["subject died".into()];
    let folder = run.launches[3].launch.folder();
    for text in render(&run).1 {
        assert!(text.contains("faults: 1 (= 0) [subject died]"));
        assert!(text.contains(&folder));
        assert!(text.contains("71 of 72 launches valid, 0 disturbed, 1 invalid; 72 planned"));
    }
}

#[test]
fn the_answer_replaces_what_stands_between_the_markers() {
    let summary = analyse(&synthetic::run(3));
    let readme = format!("# A\n\n{ANSWER_BEGIN}\nstale\n{ANSWER_END}\n\nend\n");
    let new = with_answer(&readme, &summary).expect("markers");
    assert!(new.starts_with("# A\n\n<!-- answer:begin -->\nChoose asynchronous: "));
    assert!(new.ends_with("<!-- answer:end -->\n\nend\n") && !new.contains("stale"));
    assert_eq!(with_answer(&new, &summary).as_deref(), Some(&*new));
    assert_eq!(with_answer("no markers", &summary), None);
}

#[test]
fn every_objective_stands_with_its_figure_threshold_and_verdict() {
    let mut run = synthetic::run(3);
    let (summary, texts) = render(&run);
    assert!(objectives::text(&summary).is_empty());
    assert!(!texts[0].contains("Objectives"));
    let demands = ["steady-mixed:cpu_per_op=60us", "idle:rest.p99=1s"];
    run.manifest.objectives = demands.map(str::to_owned).to_vec();
    let (summary, texts) = render(&run);
    let lines = objectives::text(&summary);
    assert!(
        lines.contains("steady-mixed:cpu_per_op=60us: missed\n"),
        "{lines}"
    );
    assert!(
        lines.contains("missed    steady-mixed multi-process: 8"),
        "{lines}"
    );
    assert!(lines.contains("(≤ 60.0 µs)"), "{lines}");
    assert!(lines.contains("idle:rest.p99=1s: not held"), "{lines}");
    for text in texts {
        assert!(text.contains("Objectives") && text.contains("no figure"));
    }
}

#[test]
fn where_the_threads_ran_stands_in_the_report() {
    let mut run = synthetic::run(3);
    let heading = "Where the threads ran";
    assert!(render(&run).1.iter().all(|text| text.contains(heading)));
    let table = |run: &RunData| pinning::table(run, &analyse(run)).expect("they were looked at");
    let row = |table: &document::Table, who: &str| -> Vec<String> {
        let found = table
            .rows
            .iter()
            .find(|row| row[0].text == who)
            .expect("a row");
        found.iter().map(|cell| cell.text.clone()).collect()
    };
    let generator = row(&table(&run), "the generator");
    assert_eq!(generator[1..], ["isolated", "cpu1", "72", "3", "0", "0"]);
    for (number, data) in (0..).zip(&mut run.launches) {
        let pinning = data.launch.pinning.as_mut().expect("looked at");
        pinning.subject.migrations = (number > 0).then_some(2);
    }
    let subject = run.launches[0].launch.subject.clone();
    let title = run.manifest.subjects.iter().find(|it| it.name == subject);
    let subject = row(&table(&run), &title.expect("a subject").title);
    assert_eq!(subject[6], "the kernel does not tell");
    run.launches
        .iter_mut()
        .for_each(|data| data.launch.pinning = None);
    assert!(render(&run).1.iter().all(|text| !text.contains(heading)));
}
