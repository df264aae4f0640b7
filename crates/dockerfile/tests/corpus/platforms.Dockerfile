ARG BASE=debian
FROM --platform=$BUILDPLATFORM tonistiigi/xx AS xx
FROM --platform=${BUILDPLATFORM:-linux/amd64} $BASE AS build
COPY --from=xx / /
ARG TARGETPLATFORM
RUN xx-apt-get install -y gcc
FROM build AS build-linux
FROM build AS build-windows
FROM build-$TARGETOS AS out
