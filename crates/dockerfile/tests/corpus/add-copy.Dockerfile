FROM scratch
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://mirrors.example.org/linux.tar.xz /
ADD --keep-git-dir=true https://github.com/moby/buildkit.git#v0.10.1 /buildkit
ADD --unpack=false --link --chown=10:11 --chmod=u=rwX,go=rX arr[[]0].txt /dest
ADD ["a b", "c", "/d e/"]
COPY --from=0 --parents ./a/./b/** ./c/
COPY --chmod=$MODE --chown=${U:-root} "quoted name" unquoted\ name /x
COPY hom* /mydir/
