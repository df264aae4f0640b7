//! Processes that are run in a container beside its first one.

use crate::wire;
use crate::wire::Words;

wire! {
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecCreateRequest {
        /// `user[:group]`.
        "User" user: String,
        /// All powers.
        "Privileged" privileged: bool,
        /// Give it a terminal.
        "Tty" tty: bool,
        /// Rows and columns.
        omitempty "ConsoleSize" console_size: Option<[u32; 2]>,
        /// Attach stdin.
        "AttachStdin" attach_stdin: bool,
        /// Attach stderr.
        "AttachStderr" attach_stderr: bool,
        /// Attach stdout.
        "AttachStdout" attach_stdout: bool,
        /// Do not attach.
        "Detach" detach: bool,
        /// Keys that detach.
        "DetachKeys" detach_keys: String,
        /// `NAME=value`.
        "Env" env: Option<Vec<String>>,
        /// Working directory.
        "WorkingDir" working_dir: String,
        /// Command.
        "Cmd" cmd: Option<Words>,
    }

    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStartRequest {
        /// Answer when it has started.
        "Detach" detach: bool,
        /// Must be as it was at creation.
        "Tty" tty: bool,
        /// Rows and columns.
        omitempty "ConsoleSize" console_size: Option<[u32; 2]>,
    }

    /// Answer of `GET /exec/{id}/json`.
    pub struct ExecInspect {
        /// Identity.
        "ID" id: String,
        /// Has not ended.
        "Running" running: bool,
        /// Null until it has ended.
        "ExitCode" exit_code: Option<i64>,
        /// What is run.
        "ProcessConfig" process_config: ProcessConfig,
        /// stdin was asked for.
        "OpenStdin" open_stdin: bool,
        /// stderr was asked for.
        "OpenStderr" open_stderr: bool,
        /// stdout was asked for.
        "OpenStdout" open_stdout: bool,
        /// Has ended and is not shown any longer.
        "CanRemove" can_remove: bool,
        /// Container.
        "ContainerID" container_id: String,
        /// Base64 of the keys.
        "DetachKeys" detach_keys: String,
        /// Process on the host, 0 for none.
        "Pid" pid: i64,
    }

    /// What an exec runs.
    pub struct ProcessConfig {
        /// Has a terminal.
        "tty" tty: bool,
        /// Program.
        "entrypoint" entrypoint: String,
        /// Arguments; never null.
        "arguments" arguments: Vec<String>,
        /// All powers.
        omitempty "privileged" privileged: Option<bool>,
        /// User.
        omitempty "user" user: String,
    }
}
