#syntax=docker/dockerfile:1.7-labs
#check=experimental=all

FROM rust:1 AS chef
RUN cargo install cargo-chef --locked
WORKDIR app

FROM chef AS planner
COPY --parents crates/*/Cargo.toml Cargo.* ./
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS builder
COPY --from=planner /app/recipe.json recipe.json
RUN cargo chef cook --release --recipe-path recipe.json
COPY . .
RUN cargo build --release --bin app

FROM gcr.io/distroless/cc-debian12@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
COPY --from=builder /app/target/release/app /usr/local/bin
ENTRYPOINT ["/usr/local/bin/app"]
