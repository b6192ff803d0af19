/* Reads and writes of files whose name contains $EIO_NAME fail with EIO while the file $EIO_WHILE exists; with $EIO_AT
   only reads that begin there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd, long long at) {
    char link[64], name[4096];
    const char *wanted = getenv("EIO_NAME"), *flag = getenv("EIO_WHILE");
    const char *place = getenv("EIO_AT");
    if (!wanted || !flag || access(flag, F_OK)) return 0;
    if (place && at != atoll(place)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, name, sizeof name - 1);
    if (size < 0) return 0;
    name[size] = 0;
    if (!strstr(name, wanted)) return 0;
    errno = EIO;
    return 1;
}

#define WRAP(result, name, parameters, arguments, at) \
    result name parameters { \
        static result (*real) parameters; \
        if (!real) real = (result (*) parameters) dlsym(RTLD_NEXT, #name); \
        return fails(fd, at) ? -1 : real arguments; \
    }

WRAP(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size), -1)
WRAP(ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), at)
WRAP(ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), at)
WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), -1)
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), -1)
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), -1)
WRAP(int, fsync, (int fd), (fd), -1)
WRAP(int, fdatasync, (int fd), (fd), -1)
