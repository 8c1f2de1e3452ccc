//! Errors as people read them.

use std::error::Error;

use crate::descriptors::Shortage;

/// An error with its causes, each named once: many errors already name their cause. If file descriptors ran out, also
/// what to do about it.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut report = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !report.contains(&text) {
            report = format!("{report}: {text}");
        }
        cause = error.source();
    }
    match Shortage::of(error) {
        Some(shortage) => format!("{report}: {shortage}"),
        None => report,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {0}")]
    struct Naming(#[source] io::Error);

    #[test]
    fn each_cause_is_named_once() {
        let cause = || io::Error::other("no such thing");
        assert_eq!(report(&Outer(cause())), "cannot open it: no such thing");
        assert_eq!(report(&Naming(cause())), "cannot open it: no such thing");
    }

    #[test]
    fn a_shortage_of_file_descriptors_comes_with_what_to_do() {
        let report = report(&Outer(io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(report.contains("ulimit -n"), "{report}");
    }
}
