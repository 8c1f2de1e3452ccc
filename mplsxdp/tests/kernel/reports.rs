//! A kernel that does not report what there is, as emulators of programs do not.

use std::collections::BTreeMap;
use std::thread;

use mplsxdp::kernel::Netlink;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[test]
fn a_kernel_without_reports_is_an_error() {
    let thread = thread::spawn(|| {
        refuse(libc::SYS_sendto, libc::EOPNOTSUPP);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let (_netlink, mut events) = Netlink::open().unwrap();
            events.until_synced().await.unwrap_err()
        })
    });
    let error = thread.join().unwrap().to_string();
    assert_eq!(
        error,
        "cannot read the kernel's interfaces, addresses, neighbours and routes: Operation not supported (os error 95)"
    );
}

/// This system call fails from now on in this thread.
fn refuse(call: i64, errno: i32) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program = BpfProgram::try_from(filter.unwrap()).unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
