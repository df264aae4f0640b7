FROM debian
RUN --network=none --security=insecure echo a
RUN --network=host --device=vendor.com/gpu=all,required nvidia-smi
RUN --mount=type=secret,id=aws,target=/root/.aws/credentials,required,mode=0440,uid=1,gid=2 aws s3 cp s3://a .
RUN --mount=type=secret,id=TOKEN,env=TOKEN curl -H "a: $TOKEN" x
RUN --mount=type=ssh,id=github,required=true git clone git@github.com:a/b
RUN --mount=type=tmpfs,target=/tmp,size=64m true
RUN --mount=from=busybox,src=/bin,dst=/b,rw ["/b/ls", "-l"]
RUN --mount="type=cache,target=/c,id=$X" true
RUN [ -f /x ] && echo shell
RUN ["a", 'b']
