//! Engines come and go; what they miss is there when they come back.

use std::os::unix::net::UnixStream;

use sampan_shim_protocol::{AttachSpec, Client, Reply, Request, Status};

use crate::harness::{Shim, eventually, framed};
use crate::needs_containers;

/// What a kill -9 of the engine is to the shim: the connection is gone.
fn kill_engine(shim: &mut Shim) {
    let (socket, _) = UnixStream::pair().unwrap();
    shim.client = Client::new(socket.into());
}

#[test]
fn a_new_engine_finds_state_log_and_exit() {
    needs_containers!();
    let mut shim =
        Shim::new("i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.005; done; exit 5");
    let pid = shim.start();
    let mut client = shim.attach(AttachSpec {
        replay_logs: true,
        ..framed()
    });
    kill_engine(&mut shim);
    eventually("output", || shim.log().len() > 100);
    shim.connect();
    let state = shim.state();
    assert_eq!(state.status, Status::Running);
    assert_eq!(state.pid, Some(pid));
    assert_eq!(state.attached, 1, "the client has noticed nothing");
    kill_engine(&mut shim);
    shim.connect();
    let exit = shim.exited();
    assert_eq!(exit.code, 5);
    let expected: String = (0..200).map(|n| format!("{n}\n")).collect();
    assert_eq!(shim.log(), expected.as_bytes());
    client.end_input();
    assert_eq!(client.text(), expected);
    shim.release();
}

#[test]
fn without_an_engine_the_exit_file_tells() {
    needs_containers!();
    let mut shim = Shim::new("sleep 0.3; seq 1 1000; exit 6");
    shim.launch.auto_remove = false;
    shim.start();
    kill_engine(&mut shim);
    shim.ends();
    assert_eq!(shim.exit_file().unwrap().code, 6);
    assert_eq!(shim.log().len(), 3893);
}

#[test]
fn exit_and_log_survive_losing_the_engine_at_any_moment() {
    needs_containers!();
    for round in 0..40_u32 {
        let mut shim = Shim::new("seq 1 500; sleep 0.005; seq 501 1000; exit 6");
        shim.start();
        std::thread::sleep(std::time::Duration::from_micros(400) * round);
        kill_engine(&mut shim);
        shim.ends();
        assert_eq!(shim.exit_file().unwrap().code, 6, "round {round}");
        assert_eq!(shim.log().len(), 3893, "round {round}");
    }
}

#[test]
fn several_engines_hear_the_same() {
    needs_containers!();
    let mut shim = Shim::new("sleep 0.3; exit 8");
    shim.start();
    let mut others: Vec<Client> = (0..3)
        .map(|_| Client::connect(&shim.launch.socket_directory).unwrap())
        .collect();
    for other in &mut others {
        other.hello(crate::harness::SOON).unwrap();
    }
    let exit = shim.exited();
    for other in &mut others {
        let event = other.wait_event(crate::harness::SOON).unwrap();
        assert_eq!(event, sampan_shim_protocol::Event::Exited(exit.clone()));
    }
    drop(others);
    shim.release();
}

#[test]
fn a_stopped_engine_does_not_stop_the_shim() {
    needs_containers!();
    let mut shim = Shim::new("sleep 1000");
    shim.start();
    // It asks and never reads the answers: after a while the shim drops it.
    let mut deaf = Client::connect(&shim.launch.socket_directory).unwrap();
    deaf.set_nonblocking(true).unwrap();
    for _ in 0..20_000 {
        deaf.send(&Request::State, Vec::new()).unwrap();
        if deaf.flush().is_err() {
            break;
        }
    }
    assert_eq!(shim.state().status, Status::Running);
    drop(deaf);
    shim.signal(9);
    assert_eq!(shim.exited().code, 137);
    shim.release();
}

#[test]
fn foreign_bytes_at_the_socket_harm_nobody() {
    use std::io::Write as _;
    needs_containers!();
    let mut shim = Shim::new("sleep 1000");
    shim.start();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"\0\0\0\x04\0\0spnull",
        b"",
    ] {
        let mut socket =
            UnixStream::connect(shim.launch.socket_directory.join("shim.sock")).unwrap();
        socket.write_all(bytes).unwrap();
        drop(socket);
    }
    let reply = shim.call(&Request::ExecState { id: "x".into() });
    assert!(matches!(reply, Reply::Error(_)));
    shim.signal(9);
    shim.exited();
    shim.release();
}
