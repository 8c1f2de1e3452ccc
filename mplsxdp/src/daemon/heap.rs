//! The memory allocator's settings.

/// Allocations of at least this many bytes have pages of their own, which go back to the kernel when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;
/// How much free memory of smaller allocations is kept. With glibc's 128 KiB, long answers get it and give it back again
/// and again.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 8 << 20;

/// Large memory that is freed goes back to the kernel. Otherwise glibc keeps it for the thread that had it, once such memory
/// was freed: 20 MiB for each thread that loads a program, because aya reads the BTF of the whole kernel for it.
pub fn give_back_large_memory() {
    // SAFETY: they set numbers, or return 0 if that is not allowed.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
