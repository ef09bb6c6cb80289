import { defineConfig } from 'vitest/config';

/**
 * Two projects: `unit` needs nothing but the built codec; `guests` boots QEMU and wants the built
 * daemon, the packages and the kernel that `make test` sets up first.
 */
export default defineConfig({
  test: {
    pool: 'forks',
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
          // Two at a time took twice as long each: processor, disk and test share two cores.
          poolOptions: { forks: { singleFork: true } },
        },
      },
    ],
  },
});
