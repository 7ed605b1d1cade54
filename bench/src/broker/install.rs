//! Finds RabbitMQ's plain start script, or installs Debian's package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    Error,
    command::{run, succeeds},
};

/// Longest installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// Installs the package without starting its service: a policy of our own forbids it, and goes
/// when the shell ends. Where systemd runs, the service is also kept from starting at the next
/// boot, for nobody asked for it; the same for Erlang's port mapper if it came with it.
const INSTALL_SCRIPT: &str = r#"set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi
units=rabbitmq-server
command -v epmd > /dev/null || units="$units epmd.socket epmd.service"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
install="apt-get install -y --no-install-recommends rabbitmq-server"
$install || { apt-get update && $install; }
if [ -d /run/systemd/system ]; then
  systemctl disable --now $units || true
fi
"#;

/// The programs of a private node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    /// RabbitMQ's own start script, not a distribution's wrapper that changes the user.
    pub server: PathBuf,
    /// Erlang's port mapper.
    pub epmd: PathBuf,
}

/// Finds an installed RabbitMQ.
pub(super) fn find() -> Option<Programs> {
    let server = server_candidates()
        .into_iter()
        .find(|path| is_plain_script(path))?;
    Some(Programs {
        server,
        epmd: find_epmd()?,
    })
}

/// Installs Debian's package if this user may.
///
/// # Errors
/// [`Error::Command`] if apt-get fails; `Ok(None)` if there is no apt-get or no permission.
pub(super) fn install() -> Result<Option<Programs>, Error> {
    if !is_on_path("apt-get") {
        return Ok(None);
    }
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    } else {
        return Ok(None);
    };
    log::info!("installing rabbitmq-server with apt-get; its service is not started");
    run(command.args(["-c", INSTALL_SCRIPT]), INSTALL_LIMIT)?;
    Ok(find())
}

/// Whether a program lies on the search path.
pub(super) fn is_on_path(program: &str) -> bool {
    on_path(program).is_some()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // An ordinary user's path often lacks the administrator's programs.
    let extra = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(extra)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Places of the start script, the most certain first.
fn server_candidates() -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server")];
    for base in ["/usr/lib/rabbitmq/lib", "/usr/lib64/rabbitmq/lib", "/opt"] {
        let mut versions: Vec<_> = fs::read_dir(base)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("sbin/rabbitmq-server"))
            .collect();
        // The newest version last in name order, so it is tried first.
        versions.sort();
        candidates.extend(versions.into_iter().rev());
    }
    candidates.extend(on_path("rabbitmq-server"));
    candidates
}

/// RabbitMQ's own script reads `rabbitmq-env` beside it; the wrappers of distributions do not.
fn is_plain_script(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains("rabbitmq-env"))
}

fn find_epmd() -> Option<PathBuf> {
    on_path("epmd").or_else(|| {
        [
            "/usr/lib/erlang",
            "/usr/lib64/erlang",
            "/usr/local/lib/erlang",
        ]
        .iter()
        .flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten())
        .map(|entry| entry.path().join("bin/epmd"))
        .find(|file| file.is_file())
    })
}
