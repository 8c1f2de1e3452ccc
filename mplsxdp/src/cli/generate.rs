//! `generate`: the manual pages and shell completions, made from the command line's own description.

use std::fs;
use std::io;
use std::path::Path;

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

/// Writes the files beneath `folder`, as beneath an installation prefix.
pub fn generate(folder: &Path) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let written = manual(&command, &folder.join("share/man").join(format!("man{SECTION}")))
        .and_then(|()| completions(&mut command, folder));
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
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && said.is_empty(), "{}: {said}", file.display());
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
}
