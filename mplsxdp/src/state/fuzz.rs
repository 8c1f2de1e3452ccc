//! Properties of the reader of saved state that must hold for any bytes.

use std::path::Path;

use super::Recovered;
use super::record::{Head, Record, begin};
use super::recovery::{Journal, Problem, Saved, read_snapshot};

/// A snapshot or a journal is read or refused, with a place that lies in the file; what is read can be written and read
/// again. The first byte says which, and, unless it is odd, the rest are lines for which the checksums are made.
pub fn saved(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let head = match kind & 2 {
        0 => Head::Snapshot(1),
        _ => Head::Journal {
            number: 1,
            after_gap: kind & 4 != 0,
        },
    };
    let with_sums = kind & 1 == 0;
    let data = match with_sums {
        true => {
            let (mut writer, mut buffer) = begin(head);
            for line in data.split(|&byte| byte == b'\n') {
                writer.line(&mut buffer, |buffer| buffer.extend_from_slice(line));
            }
            buffer
        }
        false => data.to_vec(),
    };
    let mut recovered = Recovered::default();
    let path = Path::new("f");
    let result = match head {
        Head::Snapshot(_) => {
            let mut saved = Saved::default();
            let result = read_snapshot(path, &data, &mut saved).map(Some);
            recovered.saved = saved;
            result
        }
        Head::Journal { number, .. } => {
            let journal = Journal {
                path,
                number,
                continues: false,
                is_last: true,
            };
            journal.read(&data, &mut recovered)
        }
    };
    match result {
        Ok(_) => check_again(recovered.saved),
        Err(Problem::Damaged(damage)) => {
            let (line, byte) = damage.place.expect("a place");
            assert!(byte <= data.len() && line >= 1, "{damage}");
            assert!(
                line <= data.iter().filter(|&&byte| byte == b'\n').count() + 1,
                "{damage}"
            );
            assert!(!damage.reason.is_empty());
        }
        Err(Problem::Newer { version, .. }) => assert!(version > super::text::VERSION && !with_sums),
        Err(error) => panic!("{error}"),
    }
}

fn check_again(read: Saved) {
    let (mut writer, mut buffer) = begin(Head::Snapshot(1));
    let mut routes = 0;
    if let Some(start) = &read.start {
        Record::Start(start.clone()).write(&mut writer, &mut buffer);
    }
    for port in read.ports.values() {
        Record::Port(port.clone()).write(&mut writer, &mut buffer);
    }
    for source in crate::route::Source::ALL {
        for route in read.routes(source).values() {
            Record::Set(source, route.clone()).write(&mut writer, &mut buffer);
            routes += 1;
        }
    }
    Record::End(routes).write(&mut writer, &mut buffer);
    let mut again = Saved::default();
    let number = read_snapshot(Path::new("f"), &buffer, &mut again);
    assert!(matches!(number, Ok(1)), "{number:?}");
    assert_eq!(again, read);
}
