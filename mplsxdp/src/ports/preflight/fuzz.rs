//! What must hold of reading the netdev family's answers, whatever the kernel sends: [`netdev`] panics where something does not.

use super::kernel::read;

/// A number that is read is one that was sent, and of the length that was asked for.
pub fn netdev(data: &[u8]) {
    let Ok(answer) = read(data) else { return };
    for kind in 0..8 {
        let (long, short) = (answer.number::<8>(kind), answer.number::<2>(kind));
        assert!(long.is_none() || short.is_none(), "one attribute of two lengths");
        assert!(long.is_none_or(|number| data.windows(8).any(|sent| sent == number)));
        assert!(short.is_none_or(|number| data.windows(2).any(|sent| sent == number)));
    }
}
