/* Counts the calls that change files beneath FAULTS_ROOT; at the one that is asked for the process is killed before it is
 * made, or the disk is full from there on. Loaded by LD_PRELOAD; armed by the process itself, see driver.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL, FULL };
static atomic_long calls;
static long at;
static int mode;

void faults_arm(int wanted, long number) { atomic_store(&calls, 0); at = number; mode = wanted; }
long faults_calls(void) { return atomic_load(&calls); }

static int beneath(const char *path) {
    const char *root = getenv("FAULTS_ROOT");
    return root && !strncmp(path, root, strlen(root));
}

static int of_descriptor(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return beneath(path);
}

static int of_path(int folder, const char *path) {
    return path && (path[0] == '/' || folder == AT_FDCWD ? beneath(path) : of_descriptor(folder));
}

/* Whether a call has to fail for want of space; it does not return where the process is killed. */
static int fault(int counts, int takes_space) {
    if (mode == OFF || !counts) return 0;
    int before = errno;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (mode == KILL && number == at) syscall(SYS_kill, getpid(), SIGKILL);
    errno = before;
    if (mode == FULL && number >= at && takes_space) { errno = ENOSPC; return 1; }
    return 0;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
#define ON_FD(type, name, space, params, args, fd) \
    type name params { static type (*real) params; if (!real) real = dlsym(RTLD_NEXT, #name); \
        return fault(of_descriptor(fd), space) ? -1 : real args; }
#define ON_PATH(type, name, space, params, args, folder, path) \
    type name params { static type (*real) params; if (!real) real = dlsym(RTLD_NEXT, #name); \
        return fault(of_path(folder, path), space) ? -1 : real args; }

ON_FD(ssize_t, write, 1, (int fd, const void *data, size_t size), (fd, data, size), fd)
ON_FD(ssize_t, pwrite, 1, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to), fd)
ON_FD(ssize_t, pwrite64, 1, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to), fd)
ON_FD(ssize_t, writev, 1, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd)
ON_FD(ssize_t, sendfile, 1, (int fd, int from, off_t *start, size_t size), (fd, from, start, size), fd)
ON_FD(ssize_t, sendfile64, 1, (int fd, int from, off_t *start, size_t size), (fd, from, start, size), fd)
ON_FD(ssize_t, copy_file_range, 1, (int from, off_t *a, int fd, off_t *b, size_t size, unsigned flags),
      (from, a, fd, b, size, flags), fd)
ON_FD(int, fsync, 1, (int fd), (fd), fd)
ON_FD(int, fdatasync, 1, (int fd), (fd), fd)
ON_FD(int, ftruncate, 1, (int fd, off_t size), (fd, size), fd)
ON_FD(int, ftruncate64, 1, (int fd, off_t size), (fd, size), fd)
ON_FD(int, fchmod, 0, (int fd, mode_t bits), (fd, bits), fd)
ON_FD(int, futimens, 0, (int fd, const struct timespec times[2]), (fd, times), fd)
ON_PATH(int, mkdir, 1, (const char *path, mode_t bits), (path, bits), AT_FDCWD, path)
ON_PATH(int, mkdirat, 1, (int folder, const char *path, mode_t bits), (folder, path, bits), folder, path)
ON_PATH(int, rmdir, 0, (const char *path), (path), AT_FDCWD, path)
ON_PATH(int, unlink, 0, (const char *path), (path), AT_FDCWD, path)
ON_PATH(int, unlinkat, 0, (int folder, const char *path, int flags), (folder, path, flags), folder, path)
ON_PATH(int, rename, 0, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_PATH(int, renameat, 0, (int a, const char *from, int folder, const char *path), (a, from, folder, path), folder, path)
ON_PATH(int, renameat2, 0, (int a, const char *from, int folder, const char *path, unsigned flags),
        (a, from, folder, path, flags), folder, path)
ON_PATH(int, link, 1, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_PATH(int, linkat, 1, (int a, const char *from, int folder, const char *path, int flags),
        (a, from, folder, path, flags), folder, path)
ON_PATH(int, symlink, 1, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_PATH(int, chmod, 0, (const char *path, mode_t bits), (path, bits), AT_FDCWD, path)
ON_PATH(int, fchmodat, 0, (int folder, const char *path, mode_t bits, int flags), (folder, path, bits, flags), folder, path)
ON_PATH(int, utimensat, 0, (int folder, const char *path, const struct timespec times[2], int flags),
        (folder, path, times, flags), folder, path)
ON_PATH(int, truncate, 1, (const char *path, off_t size), (path, size), AT_FDCWD, path)

#define OPENS(name, first, args, folder) \
    int name(first const char *path, int flags, ...) { \
        static int (*real)(first const char *, int, ...); if (!real) real = dlsym(RTLD_NEXT, #name); \
        mode_t bits = 0; va_list rest; va_start(rest, flags); \
        if (flags & (O_CREAT | __O_TMPFILE)) bits = va_arg(rest, mode_t); \
        va_end(rest); \
        return fault((flags & (O_CREAT | O_TRUNC)) && of_path(folder, path), 1) ? -1 : real args; }
#define COMMA ,
OPENS(open, , (path, flags, bits), AT_FDCWD)
OPENS(open64, , (path, flags, bits), AT_FDCWD)
OPENS(openat, int folder COMMA, (folder, path, flags, bits), folder)
OPENS(openat64, int folder COMMA, (folder, path, flags, bits), folder)

FILE *fopen64(const char *path, const char *how) {
    static FILE *(*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "fopen64");
    return fault(how[0] != 'r' && of_path(AT_FDCWD, path), 1) ? NULL : real(path, how);
}
