//! The results of a guest: how its tests went, according to its reports, and what is missing from them.

use std::collections::BTreeMap;

use super::counts::{self, Counts};
use super::wire::{Line, Run};
use crate::run::Summary;

/// The part of the guest's output that the user sees.
pub fn show(line: &Line, runs: &[Run]) {
    match line {
        Line::Kernel(release) => println!("Linux {release} is up"),
        Line::Begin(number) => {
            if let Some(run) = runs.get(*number) {
                println!("\nguest: {run}");
            }
        }
        Line::Stdout(text) | Line::Stderr(text) => println!("{text}"),
        Line::Error(text) => println!("guest: {text}"),
        Line::End(..) | Line::Done => {}
    }
}

/// The guest's reports on each run.
pub struct Results<'a> {
    runs: &'a [Run],
    /// Whether a program in which no test passes has failed.
    all_run: bool,
    /// For the runs that have ended: whether the program reported success, and its counts.
    ended: BTreeMap<usize, (bool, Summary)>,
    current: Option<(usize, Summary)>,
    pub counts: Counts,
    errors: u64,
}

impl<'a> Results<'a> {
    pub fn new(runs: &'a [Run], all_run: bool) -> Self {
        Self {
            runs,
            all_run,
            ended: BTreeMap::new(),
            current: None,
            counts: Counts::default(),
            errors: 0,
        }
    }

    pub fn hear(&mut self, line: Line) {
        match line {
            Line::Begin(number) => self.current = Some((number, Summary::default())),
            Line::Stdout(text) => {
                counts::read(&text, &mut self.counts);
                if let Some((_, summary)) = &mut self.current {
                    summary.add_line(&text);
                }
            }
            Line::End(number, well) => {
                if let Some((current, summary)) = self.current.take_if(|(current, _)| *current == number) {
                    self.ended.insert(current, (well, summary));
                }
            }
            Line::Error(_) => self.errors += 1,
            Line::Kernel(_) | Line::Stderr(_) | Line::Done => {}
        }
    }

    /// A run that did not begin, did not end, or ended badly without counting a failure, is one failure; so is one in
    /// which no test passed: a guest must not lack what it is made for.
    pub fn summary(&mut self, came_to_its_end: bool) -> Summary {
        let mut summary = Summary::default();
        for (number, run) in self.runs.iter().enumerate() {
            match self.ended.remove(&number) {
                Some((well, counted)) => {
                    let ran = !self.all_run || counted.passed > 0;
                    if counted.failed == 0 && !(well && ran) {
                        println!("guest: `{run}` failed, or no test of it passed");
                        summary.failed += 1;
                    }
                    summary += counted;
                }
                None => {
                    println!("guest: `{run}` did not come to its end");
                    summary.failed += 1;
                }
            }
        }
        // An error belongs to a run that is already counted, or to the guest.
        if summary.failed == 0 && (self.errors > 0 || !came_to_its_end) {
            summary.failed = 1;
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_runs() -> Vec<Run> {
        ["budget", "e2e"]
            .map(|program| Run {
                program: program.into(),
                arguments: Vec::new(),
            })
            .to_vec()
    }

    fn said(runs: &[Run], lines: &str) -> String {
        let mut results = Results::new(runs, true);
        let mut done = false;
        for line in lines.lines() {
            match Line::parse(line).unwrap() {
                Line::Done => done = true,
                line => results.hear(line),
            }
        }
        results.summary(done).to_string()
    }

    #[test]
    fn what_a_guest_does_not_say_has_failed() {
        let runs = two_runs();
        let well = "B0\n1test result: ok. 2 passed; 0 failed; 0 ignored\nE0 true\n";
        assert_eq!(said(&runs, ""), "0 passed, 2 failed");
        assert_eq!(said(&runs, well), "2 passed, 1 failed");
        assert_eq!(
            said(
                &runs,
                &format!("{well}B1\n1test result: ok. 3 passed; 0 failed; 1 ignored")
            ),
            "2 passed, 1 failed"
        );
        assert_eq!(said(&runs, &format!("{well}B1\nE1 true\nD")), "2 passed, 1 failed");
        assert_eq!(said(&runs, &format!("{well}B1\nE1 false\nD")), "2 passed, 1 failed");
        let whole = format!("{well}B1\n1test result: ok. 3 passed; 0 failed; 1 ignored\nE1 true\n");
        assert_eq!(said(&runs, &whole), "5 passed, 1 failed, 1 skipped");
        assert_eq!(
            said(&runs, &format!("{whole}!modprobe\nD")),
            "5 passed, 1 failed, 1 skipped"
        );
        assert_eq!(said(&runs, &format!("{whole}D")), "5 passed, 0 failed, 1 skipped");
    }
}
