import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/**
 * Two projects: `unit` needs nothing but the built codec; `guests` boots QEMU and wants the built
 * daemon, the packages and the kernel that `make test` sets up first.
 */
export default defineConfig({
  test: {
    pool: 'forks',
    // Vitest keeps a core for itself. Of two that is half, and many tests wait for a daemon.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    minWorkers: 1,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/guests/**'],
          testTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'guests',
          include: ['test/guests/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          // A guest of one processor is a core; its disk and this process take a tenth of another.
          // Files one after the other: the README's own commands have paths that are anybody's.
          maxConcurrency: 2,
          poolOptions: { forks: { singleFork: true } },
        },
      },
    ],
  },
});
