//! Reads the rules, and finds those that nothing shows; `conformance/README.md` describes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::cases::Case;
use super::problem::{Place, Problem, files};
use super::source_tree;

/// A document, and its rules for a data plane.
pub struct Source {
    pub title: String,
    pub rules: Vec<Rule>,
}

/// One rule, in this project's words.
pub struct Rule {
    pub id: String,
    pub section: String,
    pub level: String,
    pub text: String,
    pub standing: Standing,
    pub place: Place,
}

/// How a rule is met.
#[derive(PartialEq, Eq, Debug)]
pub enum Standing {
    /// Shown by the cases that cite it.
    ByCases,
    /// Shown by other tests of the project: rules about time, rates or several routers.
    ByTests(Vec<Test>),
    /// Not met, with the reason.
    NotMet(String),
    /// Not a rule for a data plane, with what it is for.
    NotThisPlane(String),
}

/// A test of the project.
#[derive(PartialEq, Eq, Debug)]
pub struct Test {
    /// The path from the root of the source tree.
    pub file: String,
    pub name: String,
}

const LEVELS: [&str; 8] = [
    "MUST",
    "MUST NOT",
    "SHOULD",
    "SHOULD NOT",
    "MAY",
    "states",
    "row",
    "seen",
];

/// Reads all files of a folder.
pub fn read(directory: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in files(directory)? {
        let text = fs::read_to_string(&path).map_err(|error| vec![Problem::file(&path, error)])?;
        let mut lines = text.lines().enumerate();
        let title = lines.next().and_then(|(_, line)| line.strip_prefix("# "));
        let mut source = Source {
            title: title.unwrap_or_default().to_owned(),
            rules: Vec::new(),
        };
        if title.is_none() {
            problems.push(Problem::file(&path, "the first line is `# TITLE`"));
        }
        let mut unreadable = false;
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
            // The lines of an unreadable rule do not belong to another rule.
            if line.starts_with(char::is_whitespace) && unreadable {
                continue;
            }
            let place = Place::new(&path, index + 1);
            let read = read_line(&mut source, &place, line);
            unreadable = read.is_err() && !line.starts_with(char::is_whitespace);
            if let Err(message) = read {
                problems.push(Problem { place, message });
            }
        }
        sources.push(source);
    }
    if problems.is_empty() {
        Ok(sources)
    } else {
        Err(problems)
    }
}

fn read_line(source: &mut Source, place: &Place, line: &str) -> Result<(), String> {
    if line.starts_with(char::is_whitespace) {
        let rule = source
            .rules
            .last_mut()
            .ok_or("an indented line belongs to the rule above it; there is none")?;
        let (what, rest) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        if rest.is_empty() {
            return Err(format!("`{what}` needs a reason: `{what}: WHY`"));
        }
        match (what, &mut rule.standing) {
            ("not met", Standing::ByCases) => rule.standing = Standing::NotMet(rest.into()),
            ("not this plane", Standing::ByCases) => rule.standing = Standing::NotThisPlane(rest.into()),
            ("shown by", Standing::ByCases) => rule.standing = Standing::ByTests(vec![test(rest)?]),
            ("shown by", Standing::ByTests(tests)) => tests.push(test(rest)?),
            _ => {
                return Err(format!(
                    "`{what}` is none of `not met: WHY`, `not this plane: WHY`, `shown by: FILE TEST`, one for a rule"
                ));
            }
        }
        return Ok(());
    }
    let columns: Vec<&str> = line.splitn(4, " | ").map(str::trim).collect();
    let &[id, section, level, text] = &columns[..] else {
        return Err(format!("`{line}` is not `ID | SECTION | LEVEL | SENTENCE`"));
    };
    if !LEVELS.contains(&level) {
        return Err(format!("`{level}` is not a level: {}", LEVELS.join(", ")));
    }
    source.rules.push(Rule {
        id: id.to_owned(),
        section: section.to_owned(),
        level: level.to_owned(),
        text: text.to_owned(),
        standing: Standing::ByCases,
        place: place.clone(),
    });
    Ok(())
}

/// The test must exist.
fn test(text: &str) -> Result<Test, String> {
    let (file, name) = text
        .split_once(' ')
        .ok_or_else(|| format!("`{text}` is not `FILE TEST`"))?;
    let code = fs::read_to_string(source_tree().join(file)).map_err(|error| format!("cannot read {file}: {error}"))?;
    if !has_test(&code, name) {
        return Err(format!(
            "{file} has no test {name}: neither a function under `#[test]`, nor a `Trial` in `fn tests()`"
        ));
    }
    Ok(Test {
        file: file.to_owned(),
        name: name.to_owned(),
    })
}

/// Whether `name` is a test: a function right under `#[test]`, or a `Trial` in the list of a module of `e2e`.
fn has_test(code: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        match line {
            "#[test]" => is_test = true,
            line if is_test && line.starts_with(&function) => return true,
            // Other attributes and comments may come between.
            line if line.starts_with("#[") || line.starts_with("//") => {}
            _ => is_test = false,
        }
    }
    let trials = code
        .split_once("fn tests() -> Vec<Trial> {")
        .and_then(|(_, rest)| rest.split_once("\n}"));
    let name = format!("::{name}\"");
    let mut trials = trials.into_iter().flat_map(|(trials, _)| trials.lines());
    trials.any(|line| line.contains(&name) && !line.trim().starts_with("//"))
}

/// Finds rules and cases that should refer to each other but do not.
pub fn check(sources: &[Source], cases: &[Case]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    let cited: BTreeSet<&str> = cases.iter().flat_map(|case| &case.rules).map(String::as_str).collect();
    for rule in sources.iter().flat_map(|source| &source.rules) {
        let mut report = |message| {
            let place = rule.place.clone();
            problems.push(Problem { place, message });
        };
        if !known.insert(rule.id.as_str()) {
            report(format!("there is a rule `{}` already", rule.id));
        }
        if rule.standing == Standing::ByCases && !cited.contains(rule.id.as_str()) {
            report(format!(
                "nothing shows the rule `{}`: cite it in a case (`rules {}`), or say `not met: WHY` beneath it",
                rule.id, rule.id
            ));
        }
    }
    for case in cases {
        for rule in case.rules.iter().filter(|rule| !known.contains(rule.as_str())) {
            problems.push(Problem {
                place: case.place.clone(),
                message: format!("the case `{}` cites `{rule}`, which no file of rules has", case.name),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::cases;
    use super::*;

    fn problems(rules: &str, cases: &str) -> Vec<String> {
        let directory = std::env::temp_dir().join(format!("mplsxdp-rules-{}-{:p}", std::process::id(), rules));
        fs::create_dir_all(directory.join("cases")).unwrap();
        fs::write(directory.join("rfc.txt"), rules).unwrap();
        fs::write(directory.join("cases/topic.txt"), cases).unwrap();
        let cases = cases::read(&directory.join("cases")).unwrap_or_default().cases;
        let found = read(&directory).map_or_else(|problems| problems, |rules| check(&rules, &cases));
        fs::remove_dir_all(&directory).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_that_nothing_shows_is_a_problem_and_so_is_a_case_of_no_rule() {
        let case = "case name\nrules a\nany: ip -> untouched\n";
        let rule = "# RFC 1\na | 2.1 | MUST | Something holds.\n";
        assert_eq!(problems(rule, case), [""; 0]);
        for (rules, cases, says) in [
            (
                format!("{rule}b | 2.2 | MUST | Another.\n"),
                case,
                "nothing shows the rule `b`",
            ),
            (
                rule.to_owned(),
                "case name\nrules a c\nany: ip -> untouched\n",
                "cites `c`",
            ),
            (format!("{rule}a | 2.2 | MUST | Another.\n"), case, "`a` already"),
            (
                format!("{rule}b | 2.2 | MUST | Another.\n    not met\n"),
                case,
                "`not met: WHY`",
            ),
            (format!("{rule}b | 2.2 | OUGHT | Another.\n"), case, "SHOULD NOT"),
            (
                format!("{rule}b | 2.2 | MUST\n"),
                case,
                "ID | SECTION | LEVEL | SENTENCE",
            ),
            (
                format!("{rule}    shown by: tests/src/lib.rs nothing\n"),
                case,
                "has no test nothing",
            ),
            ("a | 2.1 | MUST | No title.\n".into(), case, "# TITLE"),
        ] {
            let found = problems(&rules, cases);
            assert!(found.iter().any(|problem| problem.contains(says)), "{says}: {found:?}");
        }
    }
    #[test]
    fn only_what_is_run_is_a_test() {
        let code = "\
            fn tests() -> Vec<Trial> {\n    vec![\n        test(\"a::runs\", runs),\n        // test(\"a::never\", never),\n    ]\n}\n\
            fn runs() {}\n#[test]\n#[should_panic]\n// Why.\nfn unit() {}\n#[test]\nfn other() {}\nfn helper() {\n    say(\"a::said\");\n}\n";
        for (name, is_test) in [
            ("runs", true),
            ("unit", true),
            ("other", true),
            ("never", false),
            ("helper", false),
            ("said", false),
            ("tests", false),
        ] {
            assert_eq!(has_test(code, name), is_test, "{name}");
        }
    }

    #[test]
    fn what_is_said_of_a_rule_that_cannot_be_read_is_no_other_rules() {
        let rules = "# RFC 1\na | 2.1 | MUST | Something.\nb | 2.2 | OUGHT | Another.\n    not met: why\n";
        let found = problems(rules, "case name\nrules a\nany: ip -> untouched\n");
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
