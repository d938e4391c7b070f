//! PostgreSQL.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// The role that owns databases made here: no superuser, so that row-level security holds for it.
const ROLE: &str = "offhook";
/// The shell is the server's parent: it ends the server when its standard input closes, which happens however the test ends.
const KEEPER: &str = r#"
"$0" "$@" < /dev/null > server.log 2>&1 &
server=$!
read -r _
kill -INT "$server"
wait "$server"
cd / && rm -rf "$OLDPWD"
"#;
/// Attempts to reach a server that starts, 50 ms apart.
const ATTEMPTS: u32 = 600;

/// A PostgreSQL server of its own. Dropped, it is gone with its data.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    folder: PathBuf,
    keeper: Child,
    /// Closed, the keeper ends the server.
    line: Option<ChildStdin>,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server in a fresh folder. It does not survive this process, however that ends.
    ///
    /// # Panics
    /// When PostgreSQL is not installed, or does not start; the message says what to do.
    pub fn start() -> Self {
        let bin = installation();
        let folder = tempfile::Builder::new().prefix("offhook-postgres-").tempdir().expect("there is a temporary folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).expect("the folder is ours");
        let data = folder.join("data");
        fs::create_dir(&data).expect("the folder is ours");
        let user = unprivileged(&folder);
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).expect("root may give folders away");
            chown(&data, Some(uid), Some(gid)).expect("root may give folders away");
        }
        let made = as_user(Command::new(bin.join("initdb")), user)
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .current_dir(&folder)
            .output()
            .expect("initdb can be run");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let (keeper, line) = Self::run(&bin, &folder, user);
        let server = Self { bin, folder, keeper, line: Some(line), databases: AtomicU32::new(0) };
        server.wait();
        server.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN"));
        server
    }

    fn run(bin: &Path, folder: &Path, user: Option<(u32, u32)>) -> (Child, ChildStdin) {
        let mut keeper = as_user(Command::new("/bin/sh"), user)
            .args(["-c", KEEPER])
            .arg(bin.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=32MB"])
            .args(["-c", &format!("unix_socket_directories={}", folder.display())])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell can be run");
        let line = keeper.stdin.take().expect("it was piped");
        (keeper, line)
    }

    fn wait(&self) {
        for _ in 0..ATTEMPTS {
            if self.psql("postgres", "SELECT 1").is_ok() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}");
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut child = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        child.stdin.take().expect("it was piped").write_all(sql.as_bytes()).map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Runs statements as superuser; returns what they print, columns with `|` between.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql).unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// Makes an empty database; returns its name.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
        name
    }

    /// The address of a database, for a role that is no superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@localhost/{database}?host={}", self.folder.display())
    }

    fn pid(&self) -> Option<String> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next().map(str::to_owned)
    }

    fn signal(&self, signal: &str) {
        let pid = self.pid().expect("the server runs");
        // Its workers too: a frozen server answers nothing.
        let group = Command::new("pgrep").args(["-P", &pid]).output().map(|it| it.stdout).unwrap_or_default();
        let workers = String::from_utf8_lossy(&group).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let done = Command::new("kill").arg(signal).arg(&pid).args(workers).status();
        assert!(done.is_ok_and(|it| it.success()), "kill {signal} {pid} failed");
    }

    /// Stops the server in the midst of everything, as when it is frozen; [`thaw`](Self::thaw) lets it go on.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// See [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Ends the server at once, as when its machine loses power. [`restart`](Self::restart) brings it back with its data.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        while self.psql("postgres", "SELECT 1").is_ok() {
            sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        let user = unprivileged(&self.folder);
        // The old keeper would take the data away when it ends.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        // What a dead server leaves; its process may not have been buried yet, and would be taken for alive.
        for left in ["data/postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.folder.join(left));
        }
        let (keeper, line) = Self::run(&self.bin, &self.folder, user);
        self.keeper = keeper;
        self.line = Some(line);
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.line.take());
        let _ = self.keeper.wait();
    }
}

/// The folder with PostgreSQL's programs.
fn installation() -> PathBuf {
    let found = Command::new("/bin/sh").args(["-c", "command -v initdb"]).output().map(|it| it.stdout).unwrap_or_default();
    let in_path = fs::canonicalize(String::from_utf8_lossy(&found).trim()).ok().and_then(|it| Some(it.parent()?.to_owned()));
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|it| it.path().join("bin"));
    let mut places: Vec<PathBuf> =
        debian.chain(in_path).filter(|it| it.join("initdb").exists() && it.join("psql").exists()).collect();
    places.sort();
    places.pop().expect("PostgreSQL is not installed: apt-get install postgresql, or put its initdb and psql into PATH")
}

/// PostgreSQL refuses to run as root: the user and group to run it as, where we are root.
fn unprivileged(folder: &Path) -> Option<(u32, u32)> {
    // The folder is ours, or belongs to that user already.
    let owner = fs::metadata(folder).map(|it| (it.uid(), it.gid())).unwrap_or_default();
    if owner.0 != 0 {
        return is_root().then_some(owner);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|it| it.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("there is a user who is not root"))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

fn as_user(mut command: Command, user: Option<(u32, u32)>) -> Command {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
