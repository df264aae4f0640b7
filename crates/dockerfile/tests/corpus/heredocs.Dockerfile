FROM alpine
ENV NAME=me
RUN <<EOT
  set -e
  # not a comment for the builder
  echo $NAME \
    continued
EOT
RUN <<-"EOT" bash -x
	indented $NAME
		twice
	EOT
RUN python3 <<PY > /out && 3<<FD cat <&3
print('hello')
PY
fd
FD
COPY <<robots.txt <<-'humans.txt' /usr/share/nginx/html/
User-agent: $NAME
robots.txt
	team: $NAME
humans.txt
ADD --chmod=600 <<EOF /etc/one
one
EOF
RUN "<<NOT" echo
RUN ["<<NOT"]
RUN <<EMPTY
EMPTY
ONBUILD RUN <<EOF
triggered
EOF
ONBUILD COPY --from=x --chown=1:2 a b /c/
