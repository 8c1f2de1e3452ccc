//! `generate`: the manual pages and shell completions, made from the command line's own description.

use std::fs;
use std::io;
use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Failure;
use super::args::Cli;

/// System administration commands (man-pages(7)).
const SECTION: &str = "8";
/// The folder in which each shell looks for completions, beneath a prefix.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/mplsxdp"),
    (Shell::Zsh, "share/zsh/site-functions/_mplsxdp"),
    (Shell::Fish, "share/fish/vendor_completions.d/mplsxdp.fish"),
];

/// Values of options that their types do not list: the command, the option and the values.
const VALUES: [(&str, &str, &[&str]); 3] = [
    ("load", "checksum", &["finish", "trust"]),
    ("load", "sync", &["kernel", "fpm", "frr"]),
    ("route", "owner", &["static", "fpm", "kernel"]),
];

/// Writes the files beneath `folder`, as beneath an installation prefix.
pub fn generate(folder: &Path) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let written = manual(&command, &folder.join("share/man").join(format!("man{SECTION}")))
        .and_then(|()| completions(&mut completed(), folder));
    written.map_err(|error| Failure::Refused(format!("{}: {error}", folder.display())))
}

/// A page for the program and one for each command, such as `mplsxdp-route.8`.
fn manual(command: &Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    write_page(command.clone(), folder)?;
    for inner in visible(command) {
        let name = format!("{}-{}", command.get_name(), inner.get_name());
        // The name is the title of the page; the command as typed is in the synopsis.
        let typed = format!("{} {}", command.get_name(), inner.get_name());
        write_page(inner.clone().name(name).bin_name(typed), folder)?;
    }
    Ok(())
}

fn write_page(command: Command, folder: &Path) -> io::Result<()> {
    let path = folder.join(format!("{}.{SECTION}", command.get_name()));
    let mut page = Vec::new();
    Man::new(command.disable_help_subcommand(true))
        .section(SECTION)
        .manual("mplsxdp")
        .render(&mut page)?;
    fs::write(path, page)
}

/// The command line as the shells should offer it.
fn completed() -> Command {
    let command = VALUES.iter().fold(Cli::command(), |command, &(name, option, values)| {
        let values = PossibleValuesParser::new(values);
        command.mut_subcommand(name, |inner| inner.mut_arg(option, |arg| arg.value_parser(values)))
    });
    offered(&command)
}

/// A command without what is hidden, which shells would offer. Verbs, only words to the parser, are commands beneath it.
fn offered(command: &Command) -> Command {
    let verbs = verbs(command);
    let has_verbs = !verbs.is_empty();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let args = args.filter(|arg| !(has_verbs && arg.is_positional())).cloned();
    let shown = Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .disable_help_subcommand(true)
        .visible_aliases(command.get_visible_aliases().map(str::to_owned));
    let shown = match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    };
    shown
        .args(args.map(|arg| if has_verbs { arg.global(true) } else { arg }))
        .subcommands(visible(command).map(offered))
        .subcommands(verbs.into_iter().map(Command::new))
}

/// The verbs in the help of a command: lines such as `  route {add|replace} LABEL`.
fn verbs(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let begin = format!("  {} ", command.get_name());
    let lines = help
        .lines()
        .filter_map(|line| line.strip_prefix(&begin)?.split(' ').next());
    let mut verbs = Vec::new();
    for verb in lines.flat_map(|words| words.trim_matches(['{', '}']).split('|')) {
        // Other words stand for what is typed.
        let is_verb = verb.chars().all(|character| character.is_ascii_lowercase());
        if is_verb && !verbs.iter().any(|known| known == verb) {
            verbs.push(verb.to_owned());
        }
    }
    verbs
}

fn completions(command: &mut Command, folder: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for (shell, place) in COMPLETIONS {
        let path = folder.join(place);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut script = Vec::new();
        clap_complete::generate(shell, command, &name, &mut script);
        fs::write(path, script)?;
    }
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set())
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use super::*;

    /// Checks that an installed program finds nothing wrong with a file. A missing program is named, and checks
    /// nothing.
    fn accepts(program: &str, arguments: &[&str], file: &Path) {
        match Process::new(program)
            .args(arguments)
            .arg(file)
            .env("MANWIDTH", "100")
            .output()
        {
            // By an emulator of programs, a missing one is only seen by this exit code, which is that of shells.
            Ok(output) if output.status.code() == Some(127) => println!("skipped: {program} {}", file.display()),
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success() && errors.is_empty(),
                    "{}: {errors}",
                    file.display()
                );
                if program == "man" {
                    assert!(output.stdout.len() > 500, "{} is empty", file.display());
                }
            }
            Err(error) => println!("skipped: {program} {}: {error}", file.display()),
        }
    }

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let pages = folder.path().join("share/man/man8");
        let names: Vec<_> = visible(&Cli::command())
            .map(|command| format!("mplsxdp-{}.8", command.get_name()))
            .chain(["mplsxdp.8".to_owned()])
            .collect();
        assert_eq!(fs::read_dir(&pages).unwrap().count(), names.len());
        for name in &names {
            let page = fs::read_to_string(pages.join(name)).unwrap();
            let title = name.strip_suffix(".8").unwrap();
            assert!(page.contains(&format!(".TH {title} 8")), "{page}");
            accepts("man", &["--warnings=w", "-E", "UTF-8", "-l"], &pages.join(name));
        }
        let load = fs::read_to_string(pages.join("mplsxdp-load.8")).unwrap();
        assert!(
            load.contains("\\-\\-punt\\-rate") && load.contains("[default: 20000]"),
            "{load}"
        );
        let [bash, zsh, fish] = COMPLETIONS.map(|(_, place)| folder.path().join(place));
        accepts("bash", &["-n"], &bash);
        accepts("zsh", &["-n"], &zsh);
        accepts("fish", &["-n"], &fish);
        for path in [bash, zsh, fish] {
            let script = fs::read_to_string(&path).unwrap();
            assert!(
                script.contains("punt-rate") && script.contains("route"),
                "{}",
                path.display()
            );
        }
    }

    /// The words that bash offers after `line`, options left out unless the last word begins one.
    fn offered_by_bash(script: &Path, line: &str) -> Vec<String> {
        let run = r#"
            . "$1"
            COMP_WORDS=($2); [[ $2 == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _mplsxdp mplsxdp "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        // `compopt` is only for a completion that is under way.
        let run = format!("compopt() {{ :; }}\n{run}");
        let output = Process::new("bash")
            .args(["-c", &run, "bash"])
            .arg(script)
            .arg(line)
            .output();
        let output = output.unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let wants_options = line.rsplit(' ').next().is_some_and(|last| last.starts_with('-'));
        let words = String::from_utf8(output.stdout).unwrap();
        let words = words
            .lines()
            .filter(|word| !word.is_empty() && (wants_options || !word.starts_with('-')));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn bash_offers_commands_verbs_and_values() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let script = folder.path().join(COMPLETIONS[0].1);
        let route = [
            "add", "replace", "change", "del", "show", "get", "flush", "save", "restore",
        ];
        for (line, words) in [
            ("mplsxdp ro", &["route"][..]),
            ("mplsxdp route ", &route),
            ("mplsxdp -n r1 route ", &route),
            ("mplsxdp route re", &["replace", "restore"]),
            ("mplsxdp route --al", &["--allow-empty"]),
            ("mplsxdp --col", &[]),
            ("mplsxdp gen", &[]),
            ("mplsxdp link ", &["show", "add", "del", "set"]),
            ("mplsxdp neigh ", &["show"]),
            ("mplsxdp neighbour s", &["show"]),
            ("mplsxdp sync ", &["show", "check"]),
            ("mplsxdp config ", &["show"]),
            ("mplsxdp stats ", &[]),
            ("mplsxdp route restore --al", &["--allow-empty"]),
            ("mplsxdp route --owner ", &["static", "fpm", "kernel"]),
            ("mplsxdp route show --owner k", &["kernel"]),
            ("mplsxdp sync check --re", &["--repair"]),
            ("mplsxdp load --sync ", &["kernel", "fpm", "frr"]),
            ("mplsxdp load --mode ", &["native", "generic"]),
            ("mplsxdp load --checksum t", &["trust"]),
            ("mplsxdp load --punt", &["--punt-rate"]),
        ] {
            assert_eq!(offered_by_bash(&script, line), words, "{line}");
        }
    }

    #[test]
    fn zsh_and_fish_have_the_verbs() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        for (shell, place) in &COMPLETIONS[1..] {
            let script = fs::read_to_string(folder.path().join(place)).unwrap();
            for verb in ["replace", "restore", "check"] {
                let offered = script.lines().any(|line| line.contains(verb) && !line.contains("--"));
                assert!(offered, "{shell}: {verb}");
            }
        }
    }
}
