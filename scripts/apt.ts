/**
 * Debian packages of any release and architecture, downloaded without installing anything: apt with
 * lists and sources of its own in `.cache/apt`, which neither needs root nor touches the host's.
 * The archive is the one that the host itself installs from. Called by fetch.ts.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { getuid } from 'node:process';
import { execa } from 'execa';

/** A concrete package, never a metapackage. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  /** Packages of the same version that hold the rest of it: newer kernels come in three. */
  readonly parts: readonly string[];
}

/** What a source may call the release that it serves, besides the release's own name. */
const SUITE_ALIASES = ['stable', 'oldstable', 'testing', 'unstable', 'sid'];

/** Where Debian installs its keys; without the file, apt trusts what the host trusts. */
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

export class PrivateApt {
  readonly #folder: string;

  constructor(
    cacheDir: string,
    readonly suite: string,
    readonly architecture: string,
  ) {
    this.#folder = join(cacheDir, 'apt', `${suite}-${architecture}`);
  }

  /** Follows a kernel metapackage to the kernel of today; other packages are themselves. */
  async resolve(wanted: string): Promise<DebianPackage> {
    const record = await this.#show(wanted);
    const depends = record.get('Depends') ?? '';
    const concrete = depends.match(/\blinux-image-[\w.+-]+/)?.[0];
    if (concrete !== undefined) return this.resolve(concrete);
    const version = record.get('Version');
    if (version === undefined) throw new Error(`apt-cache show ${wanted}: no Version field`);
    const parts = depends.match(/\blinux-(?:binary|modules)-[\w.+-]+/g) ?? [];
    return { name: wanted, version, parts };
  }

  /** Brings the archive files into `folder`, which is emptied first; their paths. */
  async download({ name, version, parts }: DebianPackage, folder: string): Promise<string[]> {
    // An attempt that failed may have left a piece of an archive.
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
    const exact = [name, ...parts].map((part) => `${part}=${version}`);
    await this.#run('apt-get', ['-q', 'download', ...exact], folder);
    const archives = await readdir(folder);
    if (archives.length !== exact.length) {
      throw new Error(`apt-get download ${exact.join(' ')}: got ${archives.join(' ')}`);
    }
    return archives.map((archive) => join(folder, archive));
  }

  /** Brings the package lists up to date. */
  async refresh(): Promise<void> {
    console.log(`fetch: package lists of ${this.suite}, ${this.architecture}`);
    await mkdir(join(this.#folder, 'lists', 'partial'), { recursive: true });
    await mkdir(join(this.#folder, 'cache', 'archives', 'partial'), { recursive: true });
    await writeFile(this.#sources, await sourcesFor(this.suite));
    // A single index that fails makes `update` fail; whether it mattered, the download will tell.
    await this.#run('apt-get', ['-q', 'update'], this.#folder).catch(({ stderr }) => {
      console.error(`fetch: not all of the lists came:\n${stderr}`);
    });
  }

  get #sources(): string {
    return join(this.#folder, 'sources.list');
  }

  /** The fields of the candidate version's record, continuation lines left out. */
  async #show(name: string): Promise<Map<string, string>> {
    if (!existsSync(this.#sources)) throw new Error(`no package lists of ${this.suite} yet`);
    const stdout = await this.#run('apt-cache', ['show', '--no-all-versions', name], '/');
    const fields = stdout.split('\n').map((line) => line.match(/^([\w-]+): (.*)$/));
    return new Map(fields.flatMap((field) => (field === null ? [] : [[field[1]!, field[2]!]])));
  }

  async #run(program: string, args: readonly string[], cwd: string): Promise<string> {
    const settings = {
      'APT::Architecture': this.architecture,
      'APT::Architectures': this.architecture,
      'Acquire::Languages': 'none',
      // What the host's administrator prefers for the host.
      'APT::Default-Release': '',
      'Dir::Etc::preferences': '/dev/null',
      'Dir::Etc::preferencesparts': '/dev/null',
      'Dir::State::status': '/dev/null',
      'Dir::State::Lists': join(this.#folder, 'lists'),
      'Dir::Cache': join(this.#folder, 'cache'),
      'Dir::Etc::sourcelist': this.#sources,
      'Dir::Etc::sourceparts': '/dev/null',
      // As root, apt would hand downloads to a user of its own, who may not write here.
      ...(getuid?.() === 0 && { 'APT::Sandbox::User': 'root' }),
    };
    const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
    const { stdout } = await execa(program, [...options, ...args], {
      cwd,
      env: { LC_ALL: 'C' },
    });
    return stdout;
  }
}

/** The host's own Debian sources, with another release in the place of the host's. */
async function sourcesFor(suite: string): Promise<string> {
  const release = await readFile('/etc/os-release', 'utf8');
  if (!/^ID=debian$/m.test(release)) {
    throw new Error('the guests are made of packages from the Debian archive of a Debian host');
  }
  const own = /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1];
  const names = own === undefined ? SUITE_ALIASES : [own, ...SUITE_ALIASES];
  const source = new RegExp(`^'(\\S+)/dists/(?:${names.join('|')})(-[\\w-]+)?/InRelease'`, 'gm');
  // Only apt itself reads every form that its sources may have.
  const { stdout } = await execa('apt-get', ['update', '--print-uris'], { env: { LC_ALL: 'C' } });
  const trust = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : '';
  const lines = [...stdout.matchAll(source)].map(
    ([, uri, pocket = '']) => `deb ${trust}${uri} ${suite}${pocket} main\n`,
  );
  if (lines.length === 0) {
    throw new Error('apt has no source of Debian: the guests are made of Debian packages');
  }
  return lines.join('');
}
