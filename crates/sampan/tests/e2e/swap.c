/*
 * Exchanges two names in a directory, again and again, as fast as the kernel
 * does it: swap DIRECTORY ONE OTHER [ONE OTHER]...
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 4 || chdir(argv[1]) < 0)
		return 1;
	puts("swapping");
	fflush(stdout);
	for (;;)
		for (int n = 2; n + 1 < argc; n += 2)
			renameat2(AT_FDCWD, argv[n], AT_FDCWD, argv[n + 1], RENAME_EXCHANGE);
}
