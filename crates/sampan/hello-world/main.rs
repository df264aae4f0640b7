//! What the bundled `hello-world` image runs: writes a text and ends. Without
//! a standard library it is a few KiB. Built by build.rs.

#![no_std]
#![no_main]

use core::arch::global_asm;

static TEXT: &str = "
Hello from Sampan!
This message shows that your installation works.

To print it, Sampan took these steps:
 1. The sampan command asked the engine for the \"hello-world\" image. It is
    bundled, so nothing was downloaded.
 2. The engine mounted the image and started a container from it, under a
    supervisor of its own that outlives the engine.
 3. The container ran the program that you are reading the output of, and
    the supervisor sent that output to your terminal.

To try something more ambitious, run a Debian container:
 $ sampan run -it debian bash
";

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov eax, 1", // write
    "mov edi, 1",
    "mov rsi, [{text}]",
    "mov rdx, [{text} + 8]",
    "syscall",
    "mov eax, 60", // exit
    "xor edi, edi",
    "syscall",
    text = sym TEXT,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "adrp x3, {text}",
    "add x3, x3, :lo12:{text}",
    "ldp x1, x2, [x3]",
    "mov x0, #1",
    "mov x8, #64", // write
    "svc #0",
    "mov x0, #0",
    "mov x8, #93", // exit
    "svc #0",
    text = sym TEXT,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
