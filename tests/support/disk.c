/* A file system that fails on request, as a library for LD_PRELOAD: calls of the C library on files
 * whose path matches a pattern fail or are delayed. What to do stands in a file that is mapped into
 * memory (see disk.py), so that it can change while a process works and counts across processes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, MKDIR = 16, OPEN = 32, READ = 64 };

struct control {          /* the layout that disk.py packs */
    int64_t kinds;        /* of calls that are counted */
    int64_t error;        /* errno of those that fail */
    int64_t first;        /* number of the first call that fails, from 0 */
    int64_t times;        /* how many fail from there on */
    int64_t space;        /* bytes that may still be written; below 0: any number */
    int64_t delay;        /* microseconds that each call takes longer */
    int64_t seen;         /* calls so far */
    int64_t failed;       /* of them failed */
    char pattern[1024];   /* of whole paths; * also stands for / */
    char victim[1024];    /* path of the first that failed */
};

static struct control *control(void)
{
    static struct control *mapped;
    const char *name = getenv("TUTELAGE_FAULTS");
    if (mapped == NULL && name != NULL) {
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        int file = real(name, O_RDWR | O_CLOEXEC);
        if (file >= 0) {
            void *at = mmap(NULL, sizeof *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            close(file);
            mapped = at == MAP_FAILED ? NULL : at;
        }
    }
    return mapped;
}

/* Whether this call fails; errno is then set. */
static int fails(int kind, const char *path)
{
    struct control *c = control();
    if (c == NULL || !(c->kinds & kind) || fnmatch(c->pattern, path, 0) != 0)
        return 0;
    if (c->delay > 0) {
        struct timespec pause = {c->delay / 1000000, c->delay % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
    int64_t number = __atomic_fetch_add(&c->seen, 1, __ATOMIC_SEQ_CST);
    if (number < c->first || number - c->first >= c->times)
        return 0;
    if (__atomic_fetch_add(&c->failed, 1, __ATOMIC_SEQ_CST) == 0)
        snprintf(c->victim, sizeof c->victim, "%.1023s", path);
    errno = (int)c->error;
    return 1;
}

static const char *path_of(int file, char *buffer, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, buffer, size - 1);
    buffer[length < 0 ? 0 : length] = '\0';
    return buffer;
}

static int fails_on(int kind, int file)
{
    char buffer[4096];
    return control() != NULL && (control()->kinds & kind) &&
           fails(kind, path_of(file, buffer, sizeof buffer));
}

/* How many of the bytes the disk still takes; -1 where it takes none. */
static ssize_t taken(int file, size_t wanted)
{
    struct control *c = control();
    char buffer[4096];
    if (c == NULL || c->space < 0 || fnmatch(c->pattern, path_of(file, buffer, sizeof buffer), 0))
        return (ssize_t)wanted;
    int64_t left = __atomic_fetch_sub(&c->space, (int64_t)wanted, __ATOMIC_SEQ_CST);
    if (left >= (int64_t)wanted)
        return (ssize_t)wanted;
    __atomic_store_n(&c->space, 0, __ATOMIC_SEQ_CST);
    if (left > 0)
        return left;
    if (wanted == 0)
        return 0;
    if (__atomic_fetch_add(&c->failed, 1, __ATOMIC_SEQ_CST) == 0)
        snprintf(c->victim, sizeof c->victim, "%.1023s", buffer);
    errno = ENOSPC;
    return -1;
}

static const char *whole(int folder, const char *path, char *buffer, size_t size)
{
    if (path[0] == '/')
        return path;
    char where[2048];
    if (folder == AT_FDCWD) {
        if (getcwd(where, sizeof where) == NULL)
            return path;
    } else {
        path_of(folder, where, sizeof where);
    }
    snprintf(buffer, size, "%s/%s", where, path);
    return buffer;
}

static int opening(int folder, const char *path, int flags)
{
    char buffer[4096];
    if (control() == NULL)
        return 0;
    const char *name = whole(folder, path, buffer, sizeof buffer);
    return fails(flags & O_CREAT ? CREATE : OPEN, name);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define MODE                                    \
    mode_t mode = 0;                            \
    if (flags & (O_CREAT | __O_TMPFILE)) {      \
        va_list rest;                           \
        va_start(rest, flags);                  \
        mode = va_arg(rest, mode_t);            \
        va_end(rest);                           \
    }
#define OPENS(name)                                            \
    int name(const char *path, int flags, ...)                 \
    {                                                          \
        MODE REAL(name);                                       \
        return opening(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
    }
#define OPENS_AT(name)                                         \
    int name(int folder, const char *path, int flags, ...)     \
    {                                                          \
        MODE REAL(name);                                       \
        return opening(folder, path, flags) ? -1 : real(folder, path, flags, mode); \
    }
#define SYNCS(name)                                            \
    int name(int file)                                         \
    {                                                          \
        REAL(name);                                            \
        return fails_on(SYNC, file) ? -1 : real(file);         \
    }
#define WRITES_AT(name)                                        \
    ssize_t name(int file, const void *data, size_t size, off_t at) \
    {                                                          \
        REAL(name);                                            \
        if (fails_on(WRITE, file))                             \
            return -1;                                         \
        ssize_t part = taken(file, size);                      \
        return part < 0 ? -1 : real(file, data, (size_t)part, at); \
    }
#define READS_AT(name)                                         \
    ssize_t name(int file, void *data, size_t size, off_t at)  \
    {                                                          \
        REAL(name);                                            \
        return fails_on(READ, file) ? -1 : real(file, data, size, at); \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
SYNCS(fsync)
SYNCS(fdatasync)
WRITES_AT(pwrite)
WRITES_AT(pwrite64)
READS_AT(pread)
READS_AT(pread64)

ssize_t write(int file, const void *data, size_t size)
{
    REAL(write);
    if (fails_on(WRITE, file))
        return -1;
    ssize_t part = taken(file, size);
    return part < 0 ? -1 : real(file, data, (size_t)part);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    REAL(writev);
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (fails_on(WRITE, file) || taken(file, size) < (ssize_t)size)
        return -1;
    return real(file, parts, count);
}

ssize_t read(int file, void *data, size_t size)
{
    REAL(read);
    return fails_on(READ, file) ? -1 : real(file, data, size);
}

int rename(const char *from, const char *to)
{
    char buffer[4096];
    REAL(rename);
    if (control() != NULL && fails(RENAME, whole(AT_FDCWD, to, buffer, sizeof buffer)))
        return -1;
    return real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    char buffer[4096];
    REAL(renameat);
    if (control() != NULL && fails(RENAME, whole(to_folder, to, buffer, sizeof buffer)))
        return -1;
    return real(from_folder, from, to_folder, to);
}

int mkdir(const char *path, mode_t mode)
{
    char buffer[4096];
    REAL(mkdir);
    if (control() != NULL && fails(MKDIR, whole(AT_FDCWD, path, buffer, sizeof buffer)))
        return -1;
    return real(path, mode);
}
