//! Clients.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use sampan_shim_protocol::{AttachSpec, Bytes, Event, Reply, Request};

use crate::harness::{SOON, Shim, eventually, framed, raw_terminal};
use crate::needs_containers;

fn with_stdin() -> AttachSpec {
    AttachSpec {
        stdin: true,
        ..framed()
    }
}

#[test]
fn three_clients_share_one_process() {
    needs_containers!();
    let mut shim = Shim::with_command(&["/bin/cat"]);
    shim.launch.open_stdin = true;
    shim.start();
    let mut clients: Vec<_> = (0..3).map(|_| shim.attach(with_stdin())).collect();
    assert_eq!(shim.state().attached, 3);
    let mut expected = String::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let line = format!("line {number}\n");
        client.send(&line);
        expected += &line;
        eventually("the line", || shim.log().len() == expected.len());
    }
    // One leaves; the input stays open for the others.
    let gone = clients.pop().unwrap();
    drop(gone);
    eventually("two are left", || shim.state().attached == 2);
    clients[0].send("more\n");
    expected += "more\n";
    eventually("more", || shim.log().len() == expected.len());
    shim.call(&Request::CloseStdin { exec: None });
    assert_eq!(shim.exited().code, 0);
    for client in clients {
        assert_eq!(client.text(), expected);
    }
    shim.release();
}

#[test]
fn the_end_of_the_only_input_ends_the_input_but_not_the_output() {
    needs_containers!();
    let mut shim = Shim::new("cat; echo after");
    shim.launch.open_stdin = true;
    shim.launch.stdin_once = true;
    shim.start();
    let spec = AttachSpec {
        leftover: Bytes(b"begun before, ".to_vec()),
        ..with_stdin()
    };
    let mut client = shim.attach(spec);
    let text = "x".repeat(300_000);
    let mut writer = client.socket.try_clone().unwrap();
    let thread = std::thread::spawn({
        let text = text.clone();
        move || {
            writer.write_all(text.as_bytes()).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut bytes = Vec::new();
    client.socket.read_to_end(&mut bytes).unwrap();
    thread.join().unwrap();
    assert_eq!(shim.exited().code, 0);
    assert_eq!(
        shim.log(),
        format!("begun before, {text}after\n").as_bytes()
    );
    shim.release();
}

#[test]
fn a_client_that_vanishes_ends_the_input_that_was_its_own() {
    needs_containers!();
    let mut shim = Shim::new("cat >/dev/null; echo ended");
    shim.launch.open_stdin = true;
    shim.launch.stdin_once = true;
    shim.start();
    let mut client = shim.attach(with_stdin());
    client.send("x");
    drop(client);
    assert_eq!(shim.exited().code, 0);
    assert_eq!(shim.log(), b"ended\n");
    shim.release();
}

#[test]
fn a_client_of_a_lasting_input_is_let_go_when_it_ends() {
    needs_containers!();
    let mut shim = Shim::with_command(&["/bin/cat"]);
    shim.launch.open_stdin = true;
    shim.start();
    let mut client = shim.attach(with_stdin());
    client.send("hello\n");
    eventually("the line", || shim.log() == b"hello\n");
    client.end_input();
    assert_eq!(client.text(), "hello\n");
    assert!(shim.state().exit.is_none());
    shim.signal(9);
    shim.exited();
    shim.release();
}

#[test]
fn without_input_there_is_nothing_to_read() {
    needs_containers!();
    let mut shim = Shim::new("readlink /proc/self/fd/0; cat; echo end");
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let client = shim.attach_early(&mut descriptors, with_stdin());
    shim.start_with(descriptors);
    assert_eq!(shim.exited().code, 0);
    assert_eq!(client.text(), "/dev/null\nend\n");
    shim.release();
}

#[test]
fn a_terminal_is_raw_resized_and_left_by_keys() {
    needs_containers!();
    let mut shim = Shim::new("PS1='> ' exec sh -i").terminal();
    shim.launch.terminal_size = Some((33, 77));
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let mut client = shim.attach_early(&mut descriptors, raw_terminal());
    shim.start_with(descriptors);
    client.until("> ");
    client.send("stty size\n");
    assert!(client.until("> ").ends_with("stty size\r\n33 77\r\n> "));
    let resize = Request::Resize {
        height: 40,
        width: 100,
        exec: None,
    };
    assert!(matches!(shim.call(&resize), Reply::Done));
    client.send("stty size\n");
    client.until("40 100\r\n");
    client.until("> ");

    client.send("\x10");
    client.send("\x11");
    let event = shim.client.wait_event(SOON).unwrap();
    assert_eq!(event, Event::Detached { exec: None });
    // All that is left is the shell asking where its cursor is.
    assert_eq!(client.text().trim_end_matches("\u{1b}[6n"), "");
    assert_eq!(shim.state().attached, 0);

    let mut client = shim.attach(raw_terminal());
    // The first half of the sequence alone is input like any other.
    client.send("\x10echo again\n");
    client.until("again\r\n");
    client.send("exit 3\n");
    assert_eq!(shim.exited().code, 3);
    client.text();
    shim.release();
}

#[test]
fn a_terminal_outlives_its_process_closing_it_for_a_while() {
    needs_containers!();
    let script = "tty=/dev/pts/0; exec <&- >&- 2>&-; sleep 0.3; exec <$tty >$tty 2>&1; echo back";
    let mut shim = Shim::new(script).terminal();
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let client = shim.attach_early(&mut descriptors, raw_terminal());
    shim.start_with(descriptors);
    assert_eq!(shim.exited().code, 0);
    assert_eq!(client.text(), "back\r\n");
    shim.release();
}

#[test]
fn a_slow_client_slows_the_container_and_loses_nothing() {
    needs_containers!();
    let mut shim = Shim::new("seq 1 300000");
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let mut client = shim.attach_early(&mut descriptors, framed());
    shim.start_with(descriptors);
    // The client does not read: the container has to wait, the shim does not grow.
    std::thread::sleep(Duration::from_millis(500));
    assert!(shim.state().exit.is_none(), "the container did not wait");
    let used = shim.memory("status", "RssAnon:");
    assert!(used < 2048, "{used} kB");
    let mut bytes = Vec::new();
    let mut block = [0; 5000];
    loop {
        let read = client.socket.read(&mut block).unwrap();
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&block[..read]);
    }
    assert_eq!(shim.exited().code, 0);
    let logged = shim.released();
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(payloads(&bytes), expected.as_bytes());
    assert_eq!(logged, expected.as_bytes());
}

#[test]
fn a_client_that_never_reads_stops_mattering_when_it_is_gone() {
    needs_containers!();
    let mut shim = Shim::new("seq 1 300000");
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let client = shim.attach_early(&mut descriptors, framed());
    shim.start_with(descriptors);
    std::thread::sleep(Duration::from_millis(300));
    assert!(shim.state().exit.is_none());
    drop(client);
    assert_eq!(shim.exited().code, 0);
    assert_eq!(shim.released().len(), 1_988_895);
}

#[test]
fn output_that_a_client_has_not_read_at_the_exit_is_still_delivered() {
    needs_containers!();
    let mut shim = Shim::new("head -c 400000 /dev/zero");
    let mut descriptors = sampan_shim_protocol::LaunchDescriptors::default();
    let client = shim.attach_early(&mut descriptors, framed());
    shim.start_with(descriptors);
    let code = shim.exited().code;
    assert_eq!(code, 0);
    let reply = shim.call(&Request::Release);
    assert!(matches!(reply, Reply::Done));
    assert_eq!(client.rest().0.len(), 400_000);
    shim.ends();
}

#[test]
fn a_client_on_a_network_gets_everything_before_the_end() {
    needs_containers!();
    let mut shim = Shim::new("cat; seq 1 20000");
    shim.launch.open_stdin = true;
    shim.launch.stdin_once = true;
    shim.start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let spec = AttachSpec {
        framed: false,
        ..with_stdin()
    };
    let reply = shim
        .client
        .call(&Request::Attach(spec), vec![theirs.into()], SOON)
        .unwrap();
    assert!(matches!(reply, Reply::Done));
    socket.write_all(b"typed\n").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("typed\n1\n") && text.ends_with("\n20000\n"));
    assert_eq!(shim.exited().code, 0);
    shim.release();
}

#[test]
fn a_replay_goes_on_into_live_output_without_gap_or_repetition() {
    needs_containers!();
    let mut shim = Shim::new(
        "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; printf en; sleep 0.5; printf d",
    );
    shim.start();
    let mut clients = Vec::new();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(3));
        let (socket, client) = crate::harness::Attached::pair(&framed());
        let spec = AttachSpec {
            replay_logs: true,
            ..framed()
        };
        let reply = shim
            .client
            .call(&Request::Attach(spec), vec![socket], SOON)
            .unwrap();
        if matches!(reply, Reply::Done) {
            clients.push(client);
        }
    }
    assert!(!clients.is_empty());
    assert_eq!(shim.exited().code, 0);
    let mut expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
    expected += "end";
    for client in clients {
        assert_eq!(client.text(), expected);
    }
    shim.release();
}

fn payloads(mut frames: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        out.extend_from_slice(&rest[..length]);
        frames = &rest[length..];
    }
    out
}
