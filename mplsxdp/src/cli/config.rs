//! `config show`: the running instance as a config file.

use std::collections::BTreeMap;

use serde_json::Value;

use super::route::desired;
use super::{Failure, Session, verb};
use crate::control::api;
use crate::route::Source;

pub const HELP: &str = "Verbs:
  config show    The running instance as a config file that loads to the same state: every value that is not a default, ports
                 that were added at run time, and all static routes. With -j as JSON.";

/// The key of a config file that has the routes.
const ROUTES: &str = "routes";

#[derive(Clone, Copy)]
enum Verb {
    Show,
}

pub fn config(words: &[String], session: &mut Session) -> Result<(), Failure> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => show(session),
        [word] if matches!(verb(word, &[("show", Verb::Show)]), Some(Verb::Show)) => show(session),
        _ => Err(Failure::Usage(format!(
            "`config {}` is not a command; `config show` is",
            words.join(" ")
        ))),
    }
}

fn show(session: &mut Session) -> Result<(), Failure> {
    let (client, out) = session.client_and_output()?;
    let config = client.config()?;
    // The routes of other owners come from their sources again.
    let list = api::ListRoutes {
        owner: Some(Source::Static),
        standby: Some(true),
        ..api::ListRoutes::default()
    };
    if out.style.json {
        let mut routes = Vec::new();
        client.routes(&list, |route| {
            routes.push(Value::from(desired(&route)?.to_string()));
            Ok::<_, Failure>(())
        })?;
        let routes = (!routes.is_empty()).then(|| (ROUTES.to_owned(), Value::from(routes)));
        let whole: BTreeMap<_, _> = config.into_iter().chain(routes).collect();
        return out.json(&whole);
    }
    for (key, value) in &config {
        out.line(&format!("{key} = {}", toml_of(value)?))?;
    }
    let mut any = false;
    client.routes(&list, |route| {
        if !std::mem::replace(&mut any, true) {
            out.line(&format!("{ROUTES} = ["))?;
        }
        out.line(&format!("    {},", toml::Value::from(desired(&route)?.to_string())))
    })?;
    if any {
        out.line("]")?;
    }
    Ok(())
}

fn toml_of(value: &Value) -> Result<toml::Value, Failure> {
    toml::Value::try_from(value)
        .map_err(|error| Failure::Refused(format!("the instance has a value that no file can have: {error}")))
}
