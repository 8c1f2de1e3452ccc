//! Lines of a file that belong together: `ip route` prints some routes on several lines, and a backslash at the end
//! joins lines.

use std::io::BufRead;

use super::route::takes_next_hops;

/// The kind of lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Routes, each of which may continue on the next line.
    Routes,
    /// Commands of a batch. A command is complete without the next line, which may not have been written yet, unless it
    /// changes a route and has no next hop.
    Commands,
}

/// Where and why a file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub line: u32,
    pub reason: String,
}

/// The lines of a file that have content. Lines that begin with `nexthop`, as `ip route` prints them, belong to the
/// previous one.
pub struct Lines<R> {
    input: R,
    kind: Kind,
    number: u32,
    buffer: Vec<u8>,
    /// The line that was read last, which may continue.
    pending: Option<Pending>,
    ends_with_newline: bool,
    /// Nothing more can be read.
    failed: bool,
}

struct Pending {
    number: u32,
    text: String,
    /// The next line belongs to it in any case.
    joins: bool,
    /// A line has been added to it.
    continued: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R, kind: Kind) -> Self {
        Self {
            input,
            kind,
            number: 0,
            buffer: Vec::new(),
            pending: None,
            ends_with_newline: true,
            failed: false,
        }
    }

    /// The number of the line that was read last, if it has content and does not end with a newline.
    pub fn cut_off(&self) -> Option<u32> {
        (!self.ends_with_newline).then_some(self.number)
    }

    /// The next line, with the number of its first part.
    pub fn next(&mut self) -> Result<Option<(u32, String)>, Unreadable> {
        loop {
            if self.pending.as_ref().is_some_and(|pending| !self.may_go_on(pending)) {
                return Ok(self.take());
            }
            self.buffer.clear();
            let line = self.number + 1;
            let unreadable = |reason| Unreadable { line, reason };
            let read = match self.input.read_until(b'\n', &mut self.buffer) {
                _ if self.failed => 0,
                Ok(read) => read,
                Err(error) => {
                    self.failed = true;
                    return Err(unreadable(error.to_string()));
                }
            };
            if read == 0 {
                return Ok(self.take());
            }
            self.number = line;
            self.ends_with_newline = self.buffer.ends_with(b"\n") || self.buffer.trim_ascii().is_empty();
            let text = str::from_utf8(&self.buffer).map_err(|error| unreadable(format!("not UTF-8: {error}")))?;
            let text = match self.kind {
                Kind::Routes if text.trim_ascii_start().starts_with('#') => "",
                Kind::Routes => text,
                // As with iproute2, a comment may follow a command.
                Kind::Commands => text.split('#').next().unwrap_or_default(),
            };
            // Spaces other than those of ASCII can be part of an interface's name.
            let text = text.trim_ascii_end();
            let (text, joins) = match text.strip_suffix('\\') {
                Some(text) => (text.trim_ascii_end(), true),
                None => (text, false),
            };
            let continues = text.split_ascii_whitespace().next() == Some("nexthop");
            match &mut self.pending {
                Some(pending) if pending.joins || continues => {
                    pending.text.push(' ');
                    pending.text.push_str(text.trim_ascii_start());
                    pending.joins = joins;
                    pending.continued = true;
                }
                _ if text.is_empty() => {}
                pending => {
                    let next = Pending {
                        number: line,
                        text: text.to_owned(),
                        joins,
                        continued: false,
                    };
                    if let Some(whole) = pending.replace(next) {
                        return Ok(Some(whole.numbered()));
                    }
                }
            }
        }
    }

    fn may_go_on(&self, pending: &Pending) -> bool {
        let open = match self.kind {
            Kind::Routes => true,
            Kind::Commands => pending.continued && pending.text.contains("nexthop") || takes_next_hops(&pending.text),
        };
        open || pending.joins
    }

    fn take(&mut self) -> Option<(u32, String)> {
        self.pending.take().map(Pending::numbered)
    }
}

impl Pending {
    fn numbered(self) -> (u32, String) {
        (self.number, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, text: &str) -> Vec<(u32, String)> {
        let mut lines = Lines::new(text.as_bytes(), kind);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn lines_that_belong_together() {
        let text = "# routes\n100 proto ospf\n\tnexthop via A weight 1\n\n# of B\n\tnexthop via B\n101 \\\n via C\\\n dev eth1\n102\n";
        assert_eq!(
            read(Kind::Routes, text),
            [
                (2, "100 proto ospf nexthop via A weight 1 nexthop via B".into()),
                (7, "101 via C dev eth1".into()),
                (10, "102".into()),
            ]
        );
        let text = "status # all of it\nroute add 100 proto ospf\n\tnexthop via A # one\n\tnexthop via B\n-M r a 101 via C\nroute\n";
        assert_eq!(
            read(Kind::Commands, text),
            [
                (1, "status".into()),
                (2, "route add 100 proto ospf nexthop via A nexthop via B".into()),
                (5, "-M r a 101 via C".into()),
                (6, "route".into()),
            ]
        );
    }

    /// A program that writes a command and waits for its output must not wait for ever.
    #[test]
    fn a_command_is_carried_out_before_the_next_one_is_there() {
        let mut lines = Lines::new(
            "route add 100 via A\nlink show\nroute show\n101".as_bytes(),
            Kind::Commands,
        );
        for number in 1..=3 {
            assert_eq!(lines.next().unwrap().map(|(line, _)| line), Some(number));
            assert_eq!((lines.number, lines.cut_off()), (number, None));
        }
        assert_eq!(lines.next(), Ok(Some((4, "101".into()))));
        assert_eq!(lines.cut_off(), Some(4));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut lines = Lines::new(&b"100\n\xff\n"[..], Kind::Routes);
        let error = lines.next().unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.reason.starts_with("not UTF-8: "), "{}", error.reason);
    }
}
