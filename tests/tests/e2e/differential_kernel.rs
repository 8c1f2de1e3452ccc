//! mplsxdp against the kernel's own MPLS, on kernels that have it: [`mplsxdp_tests::differential_kernel`]. The lab
//! `differential` shows the same.

use libtest_mimic::Trial;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::{Lab, differential_kernel};

use crate::test_with;

pub fn tests() -> Vec<Trial> {
    vec![test_with(
        "differential_kernel::the_kernel_and_mplsxdp_do_the_same_but_for_what_is_documented",
        Some(Need::Mpls),
        || {
            let report = differential_kernel::compare(&Lab::new()?, differential_kernel::TABLES)?;
            println!("{report:#?}");
            Ok(())
        },
    )]
}
