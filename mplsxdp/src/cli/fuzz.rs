//! Properties of command lines, route lines, saved routes and the config file that must hold for any text. The functions
//! panic if one does not.

use clap::error::ErrorKind;

use super::args::{self, Command};
use super::route::saved_routes;
use crate::config::{Given, file};
use crate::control::api::{self, KeyFilter, RouteFilter};
use crate::route::Route;
use crate::route::line::{self, Family};

/// A command line is read, or refused with a message that names one of its words or an option. The options of `load` are
/// then checked as by `load`; each error names an option or a value.
pub fn command_line(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let line = std::iter::once("mplsxdp").chain(words.iter().copied());
    let cli = match args::parse(line.map(str::to_owned)) {
        Ok(cli) => cli,
        Err(error) => {
            let shown = error.to_string();
            let first = shown.split("\n\n").next().unwrap_or_default();
            // clap leaves control characters out. Of short options in one word, it names one, such as '-x'.
            let is_shown = |word: &&str| word.contains(char::is_control) || first.contains(word);
            let is_named = ["--", "<", "'-"].iter().any(|mark| first.contains(mark));
            let is_named = is_named || words.iter().any(is_shown);
            let names_nothing = [
                ErrorKind::DisplayHelp,
                ErrorKind::DisplayVersion,
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ErrorKind::MissingSubcommand,
            ];
            assert!(is_named || names_nothing.contains(&error.kind()), "{text}: {first}");
            return;
        }
    };
    let Some(Command::Load(load)) = cli.command else { return };
    match Given::default().with_command_line(&load.options).map(Given::check) {
        Ok(Ok(_)) => {}
        Ok(Err(errors)) => {
            assert!(!errors.0.is_empty());
            for error in errors.0.iter().map(ToString::to_string) {
                assert!(error.contains("--") || error.contains('`'), "{text}: {error}");
            }
        }
        Err(error) => assert!(error.to_string().contains("--"), "{text}: {error}"),
    }
}

/// A route displays as a line that reads as the same route, and goes over the control socket and back; an error points
/// at a part of the line. The first byte is the family.
pub fn route_line(data: &[u8]) {
    let Some((&family, line)) = data.split_first() else {
        return;
    };
    let Ok(line) = str::from_utf8(line) else { return };
    let family = [Family::Any, Family::Mpls, Family::Inet, Family::Inet6][usize::from(family & 3)];
    let route = line::route(line, family);
    let key = line::key(line, family);
    let deletion = line::deletion(line, family);
    let selection = line::selection(line, family);
    let errors = [
        route.as_ref().err(),
        key.as_ref().err(),
        deletion.as_ref().err(),
        selection.as_ref().err(),
    ];
    for error in errors {
        let Some(error) = error else { continue };
        assert!(
            line.get(error.at.clone()).is_some(),
            "{:?} is not part of the line",
            error.at
        );
        assert!(error.column(line) <= line.chars().count() + 1);
        assert!(error.point_out(line).contains(line) && !error.to_string().is_empty());
    }
    if let Ok(route) = &route {
        check_route(route);
        let deletion = deletion.as_ref();
        assert_eq!(
            deletion.map(|deletion| (deletion.key, deletion.route())),
            Ok((route.key(), Some(route)))
        );
    }
    if let Ok(key) = key {
        assert_eq!(line::key(&key.to_string(), Family::Any), Ok(key));
        assert_eq!(deletion, Ok(key.into()));
        if let Ok(selection) = selection {
            let one = RouteFilter {
                table: key.table(),
                ..RouteFilter::from(KeyFilter::from(key))
            };
            assert!(line.contains("all") || selection == Some(one), "{line}");
        }
    }
}

fn check_route(route: &Route) {
    let shown = route.to_string();
    assert_eq!(line::route(&shown, Family::Any).as_ref(), Ok(route), "{shown}");
    assert_eq!(api::Route::from(route).check().as_ref(), Ok(route), "{shown}");
}

/// What `route restore` reads is what `route save` wrote; an error names its line.
pub fn state(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n').count();
    let read: Result<Vec<_>, _> = saved_routes(data).collect();
    match read {
        Ok(read) => {
            let saved: String = read.iter().map(|(_, route)| format!("{route}\n")).collect();
            let again = saved_routes(saved.as_bytes()).map(|saved| saved.expect("what was saved can be read").1);
            assert!(again.eq(read.into_iter().map(|(_, route)| route)), "{saved}");
        }
        Err(error) => {
            let error = error.to_string();
            let number = error.strip_prefix("line ").map(|rest| rest.split([',', ':']).next());
            let number: usize = number
                .flatten()
                .and_then(|number| number.parse().ok())
                .expect("a line's number");
            assert!((1..=lines).contains(&number), "{error}");
        }
    }
}

/// A config file can be written again with the same meaning; an error names its place. Then everything is checked as by
/// `load`.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match file::parse("f", text) {
        Ok(given) => {
            let written = toml::to_string(&given.options).expect("options can be written");
            let again = file::parse("f", &written).unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(again.options, given.options, "{written}");
            if let Err(errors) = given.check() {
                assert!(!errors.0.is_empty());
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for error in errors.0.iter().map(ToString::to_string) {
                let mut place = error.splitn(4, ':').skip(1).map(str::parse::<usize>);
                let (Some(Ok(line)), Some(Ok(_))) = (place.next(), place.next()) else {
                    panic!("{error}: no place");
                };
                assert!(line <= text.split('\n').count(), "{error}");
            }
        }
    }
}
