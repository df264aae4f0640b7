FROM alpine AS tools
FROM alpine AS sdk
ONBUILD COPY . /src
ONBUILD RUN --mount=type=cache,target=/c make -C /src
ONBUILD ENTRYPOINT ["/x"]
  ONBUILD   ARG A=1
FROM sdk
