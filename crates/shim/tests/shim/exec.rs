//! Further processes.

use sampan_shim_protocol::{Event, FailureKind, Reply, Request, StartFailureKind};

use crate::harness::{Attached, SOON, Shim, eventually, exec_start, raw_terminal};
use crate::needs_containers;

fn running() -> Shim {
    let mut shim = Shim::with_command(&["/bin/sleep", "1000"]);
    shim.start();
    shim
}

fn end(mut shim: Shim) {
    shim.signal(9);
    assert_eq!(shim.exited().code, 137);
    shim.release();
}

#[test]
fn several_at_once_keep_their_output_and_codes_apart() {
    needs_containers!();
    let mut shim = running();
    let mut clients = Vec::new();
    for number in 0..4 {
        let script = format!("echo {number}; sleep 0.1; echo err{number} >&2; exit {number}");
        let (reply, client) = shim.exec(
            &format!("e{number}"),
            &["/bin/sh", "-c", &script],
            false,
            false,
        );
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        clients.push(client);
    }
    for (number, client) in clients.into_iter().enumerate() {
        let (out, err) = client.rest();
        assert_eq!(out, format!("{number}\n").as_bytes());
        assert_eq!(err, format!("err{number}\n").as_bytes());
        let id = format!("e{number}");
        eventually("the exit code", || {
            match shim.call(&Request::ExecState { id: id.clone() }) {
                Reply::ExecState(state) => state.exit_code == Some(number as i32),
                other => panic!("{other:?}"),
            }
        });
    }
    assert_eq!(
        shim.log(),
        b"",
        "an exec's output is no log of the container's"
    );
    assert_eq!(shim.state().execs.len(), 4);
    end(shim);
}

#[test]
fn input_reaches_it_and_its_end_too() {
    needs_containers!();
    let mut shim = running();
    let (reply, mut client) = shim.exec("e", &["/bin/sh", "-c", "cat; echo after"], true, false);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    client.send("typed\n");
    client.end_input();
    assert_eq!(client.text(), "typed\nafter\n");
    assert_eq!(shim.exec_ended("e").exit_code, Some(0));
    end(shim);
}

#[test]
fn a_terminal_of_its_own() {
    needs_containers!();
    let mut shim = running();
    let spec = raw_terminal();
    let (socket, mut client) = Attached::pair(&spec);
    let start = exec_start("e", &["/bin/sh"], true, Some(spec));
    let reply = shim.client.call(&start, vec![socket], SOON).unwrap();
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    let resize = Request::Resize {
        height: 12,
        width: 34,
        exec: Some("e".into()),
    };
    assert!(matches!(shim.call(&resize), Reply::Done));
    client.send("stty size; readlink /proc/self/fd/0\n");
    client.until("12 34\r\n");
    client.until("/dev/pts/0\r\n");
    client.send("\x10\x11");
    let event = shim.client.wait_event(SOON).unwrap();
    assert_eq!(
        event,
        Event::Detached {
            exec: Some("e".into())
        }
    );
    client.text();
    let signal = Request::ExecSignal {
        id: "e".into(),
        signal: 9,
    };
    assert!(matches!(shim.call(&signal), Reply::Done));
    assert_eq!(shim.exec_ended("e").exit_code, Some(137));
    end(shim);
}

#[test]
fn detached_it_runs_on_by_itself() {
    needs_containers!();
    let mut shim = running();
    for (id, tty) in [("plain", false), ("tty", true)] {
        let script = format!("seq 1 20000; touch /tmp/{id}; exit 6");
        let start = exec_start(id, &["/bin/sh", "-c", &script], tty, None);
        assert!(matches!(shim.call(&start), Reply::ExecStarted { .. }));
        assert_eq!(shim.exec_ended(id).exit_code, Some(6));
        assert!(shim.root().join("tmp").join(id).exists());
    }
    end(shim);
}

#[test]
fn a_client_that_leaves_does_not_end_it() {
    needs_containers!();
    let mut shim = running();
    let script = "seq 1 50000; echo done >/tmp/done; exit 9";
    let (reply, client) = shim.exec("e", &["/bin/sh", "-c", script], false, false);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    drop(client);
    assert_eq!(shim.exec_ended("e").exit_code, Some(9));
    assert!(shim.root().join("tmp/done").exists());
    end(shim);
}

#[test]
fn children_that_it_leaves_behind_hold_its_end_up_only_for_a_while() {
    needs_containers!();
    let mut shim = running();
    let script = "(sleep 0.3; echo late) & (sleep 100) & echo first";
    let (_, client) = shim.exec("e", &["/bin/sh", "-c", script], false, false);
    assert_eq!(client.text(), "first\nlate\n");
    assert_eq!(shim.exec_ended("e").exit_code, Some(0));
    end(shim);
}

#[test]
fn what_cannot_be_run_is_told_to_the_client_too() {
    needs_containers!();
    let mut shim = running();
    let (reply, client) = shim.exec("e", &["nothing-here"], false, false);
    match reply {
        Reply::StartFailed(failure) => {
            assert_eq!(failure.kind, StartFailureKind::CommandNotFound);
            assert_eq!(failure.exit_code, 127);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.text(),
        "OCI runtime exec failed: exec failed: unable to start container process: \
         exec: \"nothing-here\": executable file not found in $PATH: unknown\r\n"
    );
    let reply = shim.call(&Request::ExecState { id: "e".into() });
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::NotFound));
    end(shim);
}

#[test]
fn an_id_is_used_once() {
    needs_containers!();
    let mut shim = running();
    let start = exec_start("e", &["/bin/true"], false, None);
    assert!(matches!(shim.call(&start), Reply::ExecStarted { .. }));
    shim.exec_ended("e");
    let reply = shim.call(&start);
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::Exists));
    end(shim);
}
