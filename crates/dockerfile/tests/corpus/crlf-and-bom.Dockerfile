FROM a
RUN x \
  y
COPY <<E /z
line
E
CMD ["\u00e9"]