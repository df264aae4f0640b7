
  # an indented comment
from   alpine   aS   Base
	run	echo   a  	
Run echo \
# a comment within

   # another
  b \

  c
copy a b
CMD
ENTRYPOINT []
healthcheck none
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
FROM base
HEALTHCHECK cmd ["a", "b"]
RUN -- --mount=not-a-flag
RUN --mount=type=bind,target=/x --
run
