//! What the kernel says about this process, by the names that Prometheus' own clients use.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Process {
    pub cpu_seconds: f64,
    pub start_seconds: f64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    pub threads: u64,
    pub open_fds: u64,
    pub max_fds: u64,
}

impl Process {
    /// This process as it is now.
    pub fn read() -> io::Result<Self> {
        let setting = |variable| {
            let value = sysconf(variable)?.unwrap_or_default();
            u64::try_from(value).map_err(io::Error::other)
        };
        let (ticks, page) = (setting(SysconfVar::CLK_TCK)?, setting(SysconfVar::PAGE_SIZE)?);
        let stat = fs::read_to_string("/proc/self/stat")?;
        let machine = fs::read_to_string("/proc/stat")?;
        let process = Self::of(&stat, &machine, ticks, page);
        let process = process.ok_or_else(|| io::Error::other("/proc/self/stat is not as proc(5) says"))?;
        Ok(Self {
            // The folder itself is open meanwhile.
            open_fds: (fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE)?.0,
            ..process
        })
    }

    /// From /proc/PID/stat and /proc/stat (proc(5)); the name of the program, in parentheses, may contain anything.
    fn of(stat: &str, machine: &str, ticks: u64, page: u64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        // The third field is the first behind the name.
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
        let seconds = |count: u64| count as f64 / ticks as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            start_seconds: boot.trim().parse::<u64>().ok()? as f64 + seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
            threads: field(20)?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 8192000 25 0 0";
        let machine = "cpu  1 2 3\nbtime 1700000000\nprocesses 5\n";
        let expected = Process {
            cpu_seconds: 3.0,
            start_seconds: 1_700_000_010.0,
            virtual_bytes: 8_192_000,
            resident_bytes: 25 * 4096,
            threads: 7,
            ..Process::default()
        };
        assert_eq!(Process::of(stat, machine, 100, 4096), Some(expected));
        assert_eq!(Process::of("42 (a) S 1", machine, 100, 4096), None);
        let own = Process::read().unwrap();
        assert!(own.resident_bytes > 0 && own.threads > 0 && own.open_fds > 2 && own.max_fds >= own.open_fds);
    }
}
