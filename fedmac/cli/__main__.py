from fedmac.cli import main

main()
