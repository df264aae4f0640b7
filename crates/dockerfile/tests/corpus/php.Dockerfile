FROM php:8.3-fpm-alpine AS app_php

RUN set -eux; \
	install-php-extensions \
		apcu \
		intl \
		zip \
	;

ARG STABILITY="stable"
ENV STABILITY ${STABILITY}
ENV COMPOSER_ALLOW_SUPERUSER=1
ENV PATH="${PATH}:/root/.composer/vendor/bin"

COPY --from=composer:2 /usr/bin/composer /usr/bin/composer
RUN if [ -f composer.json ]; then \
		composer install --prefer-dist --no-dev --no-autoloader --no-scripts --no-progress; \
		composer clear-cache; \
    fi
ENTRYPOINT ["docker-entrypoint"]
CMD ["php-fpm"]
