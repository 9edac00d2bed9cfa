//! Open-file limit: raised to the highest value that the system permits.
//!
//! Each connection is an open file. Many systems start a program with a limit of 1,024, which they
//! permit it to raise; Kubernetes has no setting for it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the hard limit, and returns it. `None` is no limit.
pub(crate) fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // macOS refuses an unlimited number. The old limit holds then.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}
