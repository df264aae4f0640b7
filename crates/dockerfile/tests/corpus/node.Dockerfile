FROM node:22-bookworm-slim AS deps
WORKDIR /usr/src/app
ENV NODE_ENV=production \
    PATH=/usr/src/app/node_modules/.bin:$PATH
COPY --chown=node:node package*.json ./
RUN --mount=type=cache,id=npm,target=/root/.npm,sharing=locked npm ci --omit=dev

FROM deps AS test
ENV NODE_ENV=test
RUN npm install && npm test

FROM deps
COPY --link --chown=node:node --exclude=node_modules --exclude=**/*.md . .
USER node
HEALTHCHECK --interval=5m --timeout=3s --start-period=1m30s --start-interval=500ms --retries=2 \
  CMD curl -f http://localhost/ || exit 1
STOPSIGNAL SIGTERM
VOLUME ["/data", "/with space"]
VOLUME /a   /b
CMD node server.js
