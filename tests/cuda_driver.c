/* As much of CUDA's driver as nbloss calls, for a machine without one. It launches nothing: it
   writes down what it is asked for, a line each, for test_cuda_driver.py to read. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, MAJOR = 75, MINOR = 76, INTEGERS = 64, FLOATS = 8 };
static int current = 0;

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int *device, int number) { *device = number; return SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == MAJOR ? 9 : 0;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &current; return SUCCESS; }

int cuCtxSetCurrent(void *context)
{
    puts("context");
    current = context == &current;
    return SUCCESS;
}

int cuMemHostAlloc(void **memory, size_t size, unsigned flags)
{
    if (!current)
        return INVALID_CONTEXT;
    *memory = malloc(size);
    printf("host %zu %u\n", size, flags);
    return SUCCESS;
}

int cuLibraryLoadData(void **library, const void *code, void *options, void **values,
                      unsigned count, void *more, void **others, unsigned further)
{
    if (memcmp(code, "\x7f" "ELF", 4) != 0)
        return INVALID_IMAGE;
    puts("load");
    *library = &current;
    return SUCCESS;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name)
{
    *kernel = strdup(name);
    return SUCCESS;
}

int cuStreamSynchronize(void *stream)
{
    printf("synchronize %p\n", stream);
    return SUCCESS;
}

int cuLaunchKernel(void *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty,
                   unsigned tz, unsigned shared, void *stream, void **parameters, void **extra)
{
    if (!current)
        return INVALID_CONTEXT;
    if (y != 1 || z != 1 || ty != 1 || tz != 1 || shared != 0 || extra != NULL)
        abort();
    printf("launch %s %u %u %p", (char *)kernel, x, threads, stream);
    for (int i = 0; i < INTEGERS; i++)
        printf(" %lld", (long long)*(int64_t *)parameters[i]);
    for (int i = INTEGERS; i < INTEGERS + FLOATS; i++)
        printf(" %.9g", *(float *)parameters[i]);
    puts("");
    return SUCCESS;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, void *found)
{
    static const struct { const char *name; void *function; } known[] = {
        {"cuInit", cuInit}, {"cuDriverGetVersion", cuDriverGetVersion},
        {"cuDeviceGetCount", cuDeviceGetCount}, {"cuDeviceGet", cuDeviceGet},
        {"cuDeviceGetAttribute", cuDeviceGetAttribute},
        {"cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain},
        {"cuCtxSetCurrent", cuCtxSetCurrent}, {"cuMemHostAlloc", cuMemHostAlloc},
        {"cuLibraryLoadData", cuLibraryLoadData}, {"cuLibraryGetKernel", cuLibraryGetKernel},
        {"cuStreamSynchronize", cuStreamSynchronize}, {"cuLaunchKernel", cuLaunchKernel},
        {"cuGetProcAddress", cuGetProcAddress_v2},
    };
    *function = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            *function = known[i].function;
    return SUCCESS;
}
