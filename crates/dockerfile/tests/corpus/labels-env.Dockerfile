FROM scratch
LABEL com.example.vendor="ACME Incorporated"
LABEL multi.label1="value1" multi.label2="value2" other='single $x'
LABEL description="This text illustrates \
that label-values can span multiple lines."
LABEL legacy some value with  spaces
ENV MY_NAME="John Doe" MY_DOG=Rex\ The\ Dog \
    MY_CAT=fluffy EMPTY= QUOTED=''
ENV LEGACY one two  three
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc
ARG user1=someuser buildno EMPTY= QUOTED="a b"
USER ${user1:-other}:grp
WORKDIR $HOME/with space
EXPOSE 80 443/tcp 53/UDP 8000-8010 $PORT
MAINTAINER   some body <a@b>  
STOPSIGNAL ${SIG}
